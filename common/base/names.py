"""Names and cells in one form, however a system or a spreadsheet writes them."""

import os
import re
import unicodedata
from pathlib import Path, PureWindowsPath

_AS_TEXT = re.compile(r'="(.*)"', re.DOTALL)  # a spreadsheet's way to keep the zeros of 003397
_WHOLE = re.compile(r"([0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)(?:[.,]0*)?")
LONGEST_NAME = 255  # bytes of a file's name on ext4, APFS, NTFS (there, characters)


def tidy(text: str) -> str:
    """A cell without what can't be seen: one kind of space, composed characters, bare ends.

    Korean names from a Mac are decomposed (NFD), those of other systems aren't; ="003397" is how
    spreadsheets keep zeros.
    """
    if text.isascii():
        plain = text.strip()
    else:
        composed = unicodedata.normalize("NFC", text)
        spaced = "".join(" " if unicodedata.category(c) == "Zs" else c for c in composed)
        plain = _bare_ends(spaced)
    found = _AS_TEXT.fullmatch(plain) if plain.startswith("=") else None
    return tidy(found[1].replace('""', '"')) if found else plain


def _bare_ends(text: str) -> str:
    """`text` without spaces, byte order marks and other marks that aren't shown at its ends."""
    shown = [i for i, c in enumerate(text) if not c.isspace() and not _unseen(c)]
    return text[shown[0] : shown[-1] + 1] if shown else ""


def _unseen(character: str) -> bool:
    return unicodedata.category(character) in ("Cf", "Cc")


def folded(text: str) -> str:
    """A label in small letters with single spaces, full-width characters as ordinary ones."""
    folded = unicodedata.normalize("NFKC", tidy(text)).casefold()
    return " ".join("".join(c for c in folded if c.isspace() or not _unseen(c)).split())


def whole_number(text: str) -> int | None:
    """Parse 48, 48.0, "1,234" and full-width digits; None for anything else."""
    found = _WHOLE.fullmatch(folded(text))
    digits = found[1].replace(",", "") if found else ""
    return int(digits) if 0 < len(digits) <= 18 else None


def name_key(name: str) -> str:
    """The form in which names of files are compared: tidy, and decoded where they aren't UTF-8.

    Names in cp949 come from archives that a Korean Windows has packed.
    """
    if not name.isascii() and any("\udc80" <= c <= "\udcff" for c in name):
        try:
            name = os.fsencode(name).decode("cp949")
        except UnicodeError:
            return name
    return tidy(name)


def path_key(name: str) -> str:
    """The form in which paths from a folder are compared: `name_key`, as Linux writes them."""
    return name_key(name).replace("\\", "/").removeprefix("./")


class FileFinder:
    """Finds files below a folder by the names that a table gives them, whatever their form.

    A name that is there byte for byte comes first; one whose `name_key` several files share is not
    found. Each folder is listed once, and only if a name isn't there as it is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._listed: dict[Path, dict[str, list[str]]] = {}

    def find(self, name: str) -> Path | None:
        """The file or folder `name`, a path with slashes or backslashes; None if it isn't there."""
        for spelled in (name, name.replace("\\", "/")) if "\\" in name else (name,):
            found = self._exact(spelled) or self._alike(spelled)
            if found is not None:
                return found
        return None

    def _exact(self, name: str) -> Path | None:
        path = self.folder / name
        try:
            return path if name.strip() and path.exists() else None
        except (OSError, ValueError):  # a name too long, or with a zero byte
            return None

    def _alike(self, name: str) -> Path | None:
        path = self.folder
        for part in Path(tidy(name)).parts:
            step = path / part
            if part == ".." or os.path.isabs(part) or os.path.lexists(step):
                path = step
                continue
            names = self._children(path).get(name_key(part), [])
            if len(names) != 1:
                return None
            path = path / names[0]
        return path if path != self.folder and path.exists() else None

    def _children(self, folder: Path) -> dict[str, list[str]]:
        if folder not in self._listed:
            keys: dict[str, list[str]] = {}
            try:
                for name in os.listdir(folder):
                    keys.setdefault(name_key(name), []).append(name)
            except OSError:
                pass
            self._listed[folder] = keys
        return self._listed[folder]


def leads_out(name: str) -> bool:
    """Return True if a path, of any system, doesn't stay in the folder that it starts from."""
    path = PureWindowsPath(name)  # takes both separators, and drives
    return bool(path.anchor) or ".." in path.parts


def name_end(name: str, limit: int = LONGEST_NAME) -> str:
    """The end of `name` that takes at most `limit` bytes, also where a Mac decomposes it."""
    size, start = 0, len(name)
    while start and (size := size + _disk_size(name[start - 1])) <= limit:
        start -= 1
    return name[start:]


def _disk_size(character: str) -> int:
    forms = (character, unicodedata.normalize("NFD", character))
    return max(len(form.encode(errors="surrogateescape")) for form in forms)
