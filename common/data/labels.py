"""Labels that cells, names of folders and words of users stand for, the same in every table."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from common.base.names import folded

GENDERS = ("male", "female")
AGE_BORDERS = (30, 60)
AGE_GROUPS = ("<30", "30-59", ">=60")
OLDEST = 120
NOT_KNOWN = frozenset(
    ("", "nan", "<na>", "null", "nil", "na", "n/a", "none", "unknown", "unspecified", "u", "?")
    + ("-", "--", "–", "—", "미상", "모름")
)
GENDER_WORDS = {
    GENDERS[0]: ("m", "man", "men", "males", "boy", "남", "남자", "남성"),
    GENDERS[1]: ("f", "w", "woman", "women", "females", "girl", "여", "여자", "여성"),
}


def age_band(years: int) -> int:
    """Index in AGE_GROUPS by the official rule: 0 below 30, 1 from 30 to 59, 2 from 60."""
    return sum(years >= border for border in AGE_BORDERS)


class Years(NamedTuple):
    """First and last year that an age may be, both included."""

    first: int
    last: int

    @property
    def cell(self) -> str:
        """Cell of train.csv: years, a group, or "" if no group holds all of them."""
        if self.first == self.last:
            return str(self.first)
        low, high = age_band(self.first), age_band(self.last)
        return AGE_GROUPS[low] if low == high else ""

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


_NUMBER = "([0-9]{1,3})"
_UNITS = re.compile(r"(?<=[0-9]) ?(?:years?(?: old| of age)?|yrs?\.?|y\.?o\.?|세|살)(?![a-z])")
_AGES: tuple[tuple[str, Callable[..., Years]], ...] = (
    (rf"{_NUMBER}(?:[.,][0-9]+)?", lambda n: Years(n, n)),
    (rf"[(\[]?{_NUMBER} ?(?:-|‐|‑|–|—|−|~|〜|,|to|\s) ?{_NUMBER}[)\]]?", Years),
    (r"([0-9]{1,2}0|0)(?:'?s|대)", lambda n: Years(n, n + 9)),
    (rf"(?:>=|≥|from) ?{_NUMBER}", lambda n: Years(n, OLDEST)),
    (
        rf"{_NUMBER}(?:'?s|대)? ?(?:\+|이상|and (?:over|above|older|up)|or (?:more|over|older))",
        lambda n: Years(n, OLDEST),
    ),
    (
        rf"(?:>|more than|over|above|older than) ?{_NUMBER}|{_NUMBER} ?초과",
        lambda n: Years(n + 1, OLDEST),
    ),
    (
        rf"(?:<=|≤|up to) ?{_NUMBER}|{_NUMBER} ?(?:이하|and (?:under|below|younger)|or younger)",
        lambda n: Years(0, n),
    ),
    (
        rf"(?:<|under|below|less than|younger than) ?{_NUMBER}|{_NUMBER} ?미만",
        lambda n: Years(0, n - 1),
    ),
)


def parse_years(text: str, words: Mapping[str, Years | None] | None = None) -> Years | None:
    """Parse "25", "25.0", "20-29", "(25, 32)", "20s", "60+", "<30"; None where it isn't known.

    `words`: what the user says that further cells mean, as `folded` writes them. ValueError for
    anything else.
    """
    cell = folded(text)
    if words and cell in words:
        return words[cell]
    cell = cell.strip("'\"").replace("_", " ")
    if cell in NOT_KNOWN:
        return None
    cell = _UNITS.sub("", cell.removeprefix("만 "))
    for pattern, years in _AGES:
        if found := re.fullmatch(pattern, cell):
            parsed = years(*(int(n) for n in found.groups() if n is not None))
            if 0 <= parsed.first <= parsed.last <= OLDEST:
                return parsed
    raise ValueError(
        f"{text!r}, expected years from 0 to {OLDEST}, a range such as 20-29, a group "
        f"({', '.join(AGE_GROUPS)}), or nothing"
    )


def parse_word(
    text: str, aliases: Mapping[str, Iterable[str]], words: Mapping[str, str] | None = None
) -> str:
    """The one of the classes that `text` is, or an alias of; "" where it isn't known.

    `aliases`: class → other words for it. `words`: what the user says that further cells mean, as
    `squeezed` writes them. ValueError for anything else.
    """
    word = squeezed(text)
    if words and word in words:
        return words[word]
    if folded(text) in NOT_KNOWN:
        return ""
    for name, others in aliases.items():
        if word in map(squeezed, (name, *others)):
            return name
    raise ValueError(f"{text!r}, expected {_either(list(aliases))}, or nothing")


def _either(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def squeezed(word: str) -> str:
    """Without what differs between spellings: WithMask, with_mask, "with mask"; but -1 is not 1."""
    whole = folded(word)
    bare = re.sub(r"[\s_-]+", "", whole)
    return whole.removesuffix(".0") if re.fullmatch(r"[0-9]+(\.0)?", bare) else bare
