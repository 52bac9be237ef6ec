"""Who answered and how long it took: the models' cards and the stages of the work."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from common.base.stages import duration
from common.model.card import facts
from common.model.loaded import LoadedModel
from common.render import page as html


def times(seconds: Mapping[str, float]) -> Iterator[str]:
    """Seconds by stage as a table."""
    rows = [(html.plain(name), duration(value)) for name, value in seconds.items()]
    yield html.table(("stage", "time"), rows, numbers=[1])
    yield html.paragraph(
        "Until this page was made; loader processes and networks work at the same time.", "soft"
    )


def models(loaded: Sequence[LoadedModel]) -> Iterator[str]:
    """Each model in a few lines, and behind a click all that its card holds."""
    for model in loaded:
        card = model.card
        yield html.heading(f"{card['task']}: {model.path.name}", 3)
        yield html.table(("", ""), ((html.plain(a), html.plain(b)) for a, b in _summary(model)))
        rows = ((html.plain(name), html.plain(value)) for name, value in _rows(card))
        yield html.more("the whole card", html.table(("", ""), rows), printed=False)


def _summary(model: LoadedModel) -> Iterator[tuple[str, str]]:
    yield "classes", ", ".join(model.card["classes"])
    yield from facts(model.card)
    yield "runs by", model.engine


def _rows(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of nested dicts by their path, as words; of the persons only how many."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _rows(item, f"{name}.{key}" if name else str(key))
    elif name == "split.held_out":
        yield name, f"{len(value):,} persons"
    else:
        yield name, _words(value)


def _words(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        apart = " / " if any(isinstance(item, (list, tuple)) for item in value) else ", "
        return apart.join(map(_words, value)) or "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
