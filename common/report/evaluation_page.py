"""The page of an evaluation: how good the answers are, for whom they are not, and who gave them."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from common.data.crop import Cropped
from common.data.dataset import crop_all
from common.data.layout import AGE_BORDERS
from common.files import write_whole
from common.inference.codes import Codes
from common.inference.ensemble import Ensemble, all_models
from common.inference.predictor import Answers
from common.inference.scores import score_notes
from common.report import cards, evaluation, figures, html
from common.report.evaluation import Gap, Interval, Share
from common.report.subjects import Subjects
from common.stages import Stages
from common.training.calibration import expected_calibration_error
from common.training.metrics import score

NAME = "report.html"
MISTAKES = 24  # shown of a task
EACH = 2  # of them of one person
CONFUSIONS = 10  # listed, the most frequent
FACES = {True: "face found", False: "no face found: centre crop", None: ""}
NEAR = ((1, 2), (3, 5), (6, 10), (11, 120))  # years from a border
METHOD = (
    "Intervals are of 95%. Those of macro F1, F1 and of the scores at the top: persons drawn with "
    f"replacement {evaluation.RESAMPLES:,} times, all photos of a person together (percentile "
    "bootstrap); a class that few persons are of may be missing among those drawn and then counts "
    "as F1 0, which makes such intervals low. Those of other shares: Wilson's score interval on the "
    "effective number of photos, as photos of a person resemble one another; those of differences: "
    "Newcombe's of two such intervals. Nothing is random from one run to the next.",
    f"A gap is reported where a group of at least {evaluation.LEAST_PHOTOS} photos lies more than "
    f"{evaluation.WIDE_GAP:.0%} below the best group of as many. The best and the worst of many "
    "groups are chosen by the same photos, so that a gap looks wider than it is; its interval "
    "doesn't make up for that.",
)


@dataclasses.dataclass(frozen=True)
class Told:
    """What was said of one thing, the codes or a task: class indices (photos,), -1 for no answer."""

    name: str
    words: Sequence[str]
    true: np.ndarray
    said: np.ndarray

    @property
    def right(self) -> np.ndarray:
        return self.true == self.said


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Photos whose true codes are known, what was answered and by whom.

    `true` is (photos,) codes; `names` and `paths` are the photos', and `notes` lines that say which
    persons these are and what decided. `stages` holds the seconds of the work until now.
    """

    codes: Codes
    true: np.ndarray
    answers: Answers
    subjects: Subjects
    names: Sequence[str]
    paths: Sequence[Path]
    ensembles: Mapping[str, Ensemble]
    notes: Sequence[str]
    stages: Stages

    @property
    def whole(self) -> Told:
        """The codes."""
        names = self.codes.names
        return Told(f"{len(names)} codes", names, self.true, self.codes.of(self.answers))

    @property
    def tasks(self) -> list[Told]:
        """The tasks, in order; a photo without a code has no answer of any."""
        parts = zip(self.codes.classes.items(), self.codes.decode(self.true), strict=True)
        bad = self.whole.said < 0
        return [
            Told(task, words, true, np.where(bad, -1, self.answers.classes(task)))
            for (task, words), true in parts
        ]

    @property
    def all(self) -> list[Told]:
        """The codes and the tasks."""
        return [self.whole, *self.tasks]

    @property
    def traits(self) -> np.ndarray:
        """(photos,) the true classes of the tasks after the first: what a person keeps, in words."""
        words = [np.array(told.words, dtype=object)[told.true] for told in self.tasks[1:]]
        return np.array([" ".join(of_photo) for of_photo in zip(*words, strict=True)])


def write_report(folder: Path, report: Evaluation, cache_dir: Path) -> Path:
    """Write the page into `folder`, which is there; returns the file."""
    sheets = {told.name: list(mistakes(report, told, cache_dir)) for told in report.tasks}
    write_whole(folder / NAME, page(report, sheets).encode(errors="xmlcharrefreplace"))
    return folder / NAME


def mistakes(report: Evaluation, told: Told, cache_dir: Path) -> Iterator[tuple[np.ndarray, str]]:
    """The crops that a task was surest and wrong about, as its first model sees them, and a line."""
    probabilities = report.answers.probabilities[told.name]
    places = evaluation.surest_mistakes(
        told.true, told.said, probabilities, report.subjects.persons, most=MISTAKES, each=EACH
    )
    spec = report.ensembles[told.name].models[0].spec
    paths = [report.paths[place] for place in places]
    batches = crop_all(paths, [spec], cache_dir, workers=0) if paths else ()
    crops = [crop for batch in batches for crop in batch]
    for place, crop in zip(places, crops, strict=True):
        if isinstance(crop, Cropped):  # else the photo is gone since it was answered for
            said = told.said[place]
            yield (
                crop.images[0],
                (
                    f"true {told.words[told.true[place]]}, said {told.words[said]} "
                    f"({probabilities[place, said]:.0%}): {report.names[place]}"
                ),
            )


def page(report: Evaluation, sheets: Mapping[str, Sequence[tuple[np.ndarray, str]]]) -> str:
    """The whole page as HTML; `sheets`: task → its surest mistakes' crops, with captions."""
    persons = len(np.unique(report.subjects.persons))
    of = f" of {persons:,} persons" if report.subjects.same_person else ""
    sections: dict[str, Callable[[Evaluation], Iterator[str]]] = {
        "Scores": _scores,
        "Confusions": _confusions,
        "Classes": _classes,
        "Calibration": _calibration,
        "Errors by age": _ages,
        "Groups": _groups,
        "Conditions": _conditions,
        "Surest mistakes": lambda _: _sheets(sheets),
        "Time": lambda _: cards.times(report.stages.seconds),
        "Models": lambda _: cards.models(all_models(report.ensembles)),
        "How it is counted": lambda _: map(html.paragraph, METHOD),
    }
    parts = list(_top(report))
    for title, section in sections.items():
        parts += [html.heading(title), *section(report)]
    return html.page(f"Report on {len(report.true):,} photos{of}", parts)


def _top(report: Evaluation) -> Iterator[str]:
    whole = report.whole
    found = _scored(report, whole)
    yield html.verdict(
        f"{whole.name} macro F1 {found.macro_f1.value:.4f} (95%: {found.macro_f1.low:.3f} to {found.macro_f1.high:.3f}), accuracy "
        f"{found.accuracy.value:.4f} (95%: {found.accuracy.low:.3f} to {found.accuracy.high:.3f})", "",
    )  # fmt: skip
    groups = _finest(report)
    for told in report.all:
        yield from _gap_lines(report, told, groups, widest=True)
    notes = [*report.notes, *score_notes(report.codes, report.true, whole.said)]
    if not report.subjects.same_person:
        notes.append(
            f"{report.subjects.table} has no column person or id: each photo counts as one of "
            "another person, and where a person has several, all intervals are too narrow"
        )
    yield from (html.paragraph(note, "soft") for note in notes)


def _scored(report: Evaluation, told: Told) -> evaluation.Scored:
    return evaluation.scored(told.true, told.said, report.subjects.persons, len(told.words))


def _scores(report: Evaluation) -> Iterator[str]:
    rows = []
    for told in report.all:
        found = _scored(report, told)
        rows.append((html.plain(told.name), _number(found.macro_f1), _number(found.accuracy)))
    yield html.table(("", "macro F1", "accuracy"), rows, numbers=(1, 2))


def _confusions(report: Evaluation) -> Iterator[str]:
    yield html.paragraph(
        "Photos by true class and answer; stronger the larger a share of the true class.", "soft"
    )
    drawn = []
    for told in report.tasks:
        found = score(told.true, told.said, len(told.words))
        title = f"confusion matrix of {told.name}"
        drawn.append((figures.confusion(found.confusion, told.words, told.words, title), told.name))
    yield html.figures(drawn)
    whole = report.whole
    confusion = score(whole.true, whole.said, len(whole.words)).confusion
    numbers = [str(code) for code in range(len(whole.words))]
    rows = [f"{name}  {code}" for code, name in enumerate(whole.words)]
    svg = figures.confusion(confusion, rows, numbers, f"confusion matrix of the {whole.name}")
    yield html.scroll(
        html.figures([(svg, f"{whole.name}: their number at the bottom.")]), whole.name
    )
    yield html.heading("Most frequent confusions", 3)
    yield from _frequent(whole, confusion)


def _frequent(told: Told, confusion: np.ndarray) -> Iterator[str]:
    wrong = confusion * (1 - np.eye(len(confusion), dtype=int))
    order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS]
    support = np.bincount(told.true, minlength=len(told.words))
    rows = []
    for true, said in zip(*np.unravel_index(order, wrong.shape), strict=True):
        if wrong[true, said]:
            words = html.plain(told.words[true]), html.plain(told.words[said])
            part = wrong[true, said] / support[true]
            rows.append((*words, f"{wrong[true, said]:,} of {support[true]:,} ({part:.0%})"))
    yield html.table(("true", "answered", "photos"), rows, numbers=[2])


def _classes(report: Evaluation) -> Iterator[str]:
    header = ("", "photos", "recall", "precision", "F1")
    for told in report.all:
        confusion = score(told.true, told.said, len(told.words)).confusion
        found = _scored(report, told).f1
        answered, persons = confusion.sum(axis=0), report.subjects.persons
        rows = []
        for place, word in enumerate(told.words):
            mine = told.true == place
            recall = (
                _percent(evaluation.share(told.right[mine], persons[mine])) if any(mine) else "–"
            )
            hits = confusion[place, place]
            precision = f"{hits / answered[place]:.1%}" if answered[place] else "–"
            rows.append(
                (html.plain(word), f"{mine.sum():,}", recall, precision, _number(found[place]))
            )
        yield html.heading(told.name, 3)
        yield _wide(header, rows, f"classes of {told.name}")


def _calibration(report: Evaluation) -> Iterator[str]:
    yield html.paragraph(
        "How often the likeliest class is right, by how likely the models say it is. On the dashed "
        "line both are the same; below it the models are too sure. Offsets change no probability.",
        "soft",
    )
    drawn, tables = [], []
    for told in report.tasks:
        shares = report.answers.probabilities[told.name]
        good = np.isfinite(shares).all(axis=1)
        if not good.any():
            continue
        known = shares[good], told.true[good]
        bins = evaluation.reliability(*known, report.subjects.persons[good])
        excess = sum((b.probability - b.right.value) * b.right.photos for b in bins) / good.sum()
        error = f"{told.name}: expected calibration error {expected_calibration_error(*known):.3f}"
        points = [(b.probability, *_span(b.right)) for b in bins]
        labels = "probability of the likeliest class", "right"
        how = f"on average {abs(excess):.1%} too {'sure' if excess > 0 else 'unsure'}"
        drawn.append((figures.reliability(points, error, labels), f"{error}; {how}."))
        rows = [(f"{b.probability:.1%}", _percent(b.right), f"{b.right.photos:,}") for b in bins]
        header = ("mean probability", "right", "photos")
        tables.append(html.more(f"{told.name} in numbers", html.table(header, rows, (0, 1, 2))))
    yield html.figures(drawn)
    yield from tables


def _ages(report: Evaluation) -> Iterator[str]:
    years, people = report.subjects.years, report.subjects
    known = ~np.isnan(years)
    if not known.any():
        yield _absent(people, "age", " with years")
        return
    oldest = np.nanmax(years) == AGE_BORDERS[-1]
    yield html.paragraph(
        f"The share of wrong answers by true age, for {known.sum():,} photos; dashed lines are the "
        "borders between age groups."
        + (f" {AGE_BORDERS[-1]} stands for all from {AGE_BORDERS[-1]} on." if oldest else ""),
        "soft",
    )
    by_task = {
        told.name: evaluation.shares_by(years, ~told.right, people.persons) for told in report.tasks
    }
    marks = [border - 0.5 for border in AGE_BORDERS]
    yield html.figures(
        (
            figures.band(
                [(age, *_span(s)) for age, s in found.items()], f"errors of {name} by age",
                ("true age in years", "wrong"), marks=marks,
            ),
            name,
        )
        for name, found in by_task.items()
    )  # fmt: skip
    yield from _borders(report)
    rows = [
        (f"{age:.0f}", f"{next(iter(by_task.values()))[age].photos:,}",
         *(_percent(found[age]) for found in by_task.values()))
        for age in next(iter(by_task.values()))
    ]  # fmt: skip
    header = ("age", "photos", *(f"{name} wrong" for name in by_task))
    yield html.more("every age in numbers", _wide(header, rows, "errors by age"))


def _borders(report: Evaluation) -> Iterator[str]:
    """Errors by the distance from the nearest border between age groups."""
    away, persons = evaluation.years_to_border(report.subjects.years), report.subjects.persons
    header = ("years from the nearest border", "photos", "persons")
    rows = []
    for first, last in NEAR:
        mine = (away >= first) & (away <= last)
        if mine.any():
            found = [evaluation.share(~told.right[mine], persons[mine]) for told in report.tasks]
            name = f"{first} to {last}" if last < NEAR[-1][1] else f"from {first}"
            counts = f"{found[0].photos:,}", f"{found[0].persons:,}"
            rows.append((name, *counts, *map(_percent, found)))
    yield html.heading("Near the borders", 3)
    yield html.paragraph("1: 29, 30, 59 and 60 years.", "soft")
    yield _wide((*header, *(f"{told.name} wrong" for told in report.tasks)), rows, "near borders")


def _groupings(report: Evaluation) -> Iterator[tuple[str, np.ndarray]]:
    """Ways to group the photos by persons, the finest last: title, (photos,) groups."""
    traits, races = report.traits, report.subjects.races
    words = " × ".join(told.name for told in report.tasks[1:])
    yield words, traits
    if len(np.unique(races[races != ""])) > 1:
        yield "race", races
        both = [f"{a} {b}" if b else "" for a, b in zip(traits, races, strict=True)]
        yield f"{words} × race", np.array(both)


def _finest(report: Evaluation) -> np.ndarray:
    return list(_groupings(report))[-1][1]


def _groups(report: Evaluation) -> Iterator[str]:
    people = report.subjects
    yield html.paragraph(
        "How many answers are right, by the true groups of the persons; dashed: everyone.", "soft"
    )
    names = np.unique(people.races[people.races != ""])
    if not len(names):
        yield _absent(people, "race")
    elif len(names) == 1:
        yield html.paragraph(f"Nothing by race: {people.table} has only {names[0]}.", "soft")
    for title, groups in _groupings(report):
        yield html.heading(title, 3)
        for told in report.all:
            yield from _gap_lines(report, told, groups)
        yield from _group_shares(report, title, groups)


def _group_shares(report: Evaluation, title: str, groups: np.ndarray) -> Iterator[str]:
    """Each group's shares of right answers, as figures and as a table."""
    found = [
        evaluation.shares_by(groups, told.right, report.subjects.persons) for told in report.all
    ]
    yield html.figures(
        (
            figures.intervals(
                {f"{name} ({s.photos:,})": _span(s) for name, s in of_told.items()},
                f"{told.name}: share right by {title}", "right", mark=told.right.mean(),
            ),
            f"{told.name}; in brackets the number of photos.",
        )
        for told, of_told in zip(report.all, found, strict=True)
    )  # fmt: skip
    rows = [
        (html.plain(name), f"{s.photos:,}", f"{s.persons:,}", *(_percent(f[name]) for f in found))
        for name, s in found[0].items()
    ]
    header = ("", "photos", "persons", *(told.name for told in report.all))
    yield html.more("in numbers", _wide(header, rows, f"right by {title}"))


def _gap_lines(
    report: Evaluation, told: Told, groups: np.ndarray, *, widest: bool = False
) -> Iterator[str]:
    """The widest gap between groups in words, if it is a wide one, and how many others there are."""
    shares = evaluation.shares_by(groups, told.right, report.subjects.persons)
    found = evaluation.gaps(shares)
    if not found:
        return
    others = [f"{gap.worse} ({gap.difference.value:.0%})" for gap in found[1:]]
    text = _gap_words(told, shares, found[0])
    if others and not widest:
        text += f" More than {evaluation.WIDE_GAP:.0%} below it are also: {', '.join(others)}."
    yield html.verdict(text, "error" if found[0].difference.low > 0 else "warning")


def _gap_words(told: Told, shares: Mapping[str, Share], gap: Gap) -> str:
    worse, best, (width, low, high) = shares[gap.worse], shares[gap.best], gap.difference
    below = told.right.mean() - worse.value
    chance = "" if low > 0 else ", which may be chance"
    return (
        f"{told.name}: {worse.value:.0%} of {gap.worse} are right, n = {worse.photos:,} photos of "
        f"{worse.persons:,} persons: {100 * width:.0f} points (95%: {100 * low:.0f} to "
        f"{100 * high:.0f}{chance}) below {gap.best} ({best.value:.0%}, n = {best.photos:,} of "
        f"{best.persons:,}), {100 * below:.0f} below everyone."
    )


def _conditions(report: Evaluation) -> Iterator[str]:
    """By the first task's true class, which changes from photo to photo, and by face."""
    first = report.tasks[0]
    groupings = {
        f"by how it is: {first.name}": np.array([first.words[place] for place in first.true]),
        "by face": np.array([FACES[found] for found in report.answers.found]),
    }
    yield html.paragraph(
        "The share of right answers, and the macro F1 over the classes that occur in the row.",
        "soft",
    )
    for title, groups in groupings.items():
        yield html.heading(title, 3)
        names = [name for name in dict.fromkeys((*first.words, *FACES.values())) if name in groups]
        names = [name for name in names if name]
        if names:
            yield from _condition_tables(report, title, groups, names)
        else:
            yield html.paragraph("No face was looked for.", "soft")


def _condition_tables(
    report: Evaluation, title: str, groups: np.ndarray, names: Sequence[str]
) -> Iterator[str]:
    persons, sides = report.subjects.persons, report.all
    shares = {told.name: evaluation.shares_by(groups, told.right, persons) for told in sides}
    header = tuple(told.name for told in sides)
    rows = []
    for name in names:
        found = [shares[told.name][name] for told in sides]
        counts = f"{found[0].photos:,}", f"{found[0].persons:,}"
        rows.append((html.plain(name), *counts, *map(_percent, found)))
    yield _wide(("right", "photos", "persons", *header), rows, f"right {title}")
    rows = [
        (html.plain(name), *(_f1_within(told, groups == name, persons) for told in sides))
        for name in names
    ]
    yield _wide(("macro F1", *header), rows, f"macro F1 {title}")


def _f1_within(told: Told, mine: np.ndarray, persons: np.ndarray) -> str:
    """The macro F1 of some photos over their classes, where they are of several."""
    true, said = told.true[mine], told.said[mine]
    if len(np.unique(true)) < 2:
        return "–"
    found = evaluation.scored(true, said, persons[mine], len(told.words), only_present=True)
    return _number(found.macro_f1)


def _sheets(sheets: Mapping[str, Sequence[tuple[np.ndarray, str]]]) -> Iterator[str]:
    yield html.paragraph(
        f"Wrong answers, the most probable first, at most {EACH} of a person: what the model saw, "
        "the true class, what it said and how probable it thought that. Some may be errors of the "
        "labels.", "soft",
    )  # fmt: skip
    for task, photos in sheets.items():
        yield html.heading(task, 3)
        yield html.sheet(photos) if photos else html.paragraph("No mistakes.")


def _absent(people: Subjects, column: str, what: str = "") -> str:
    """Why there is nothing by a column."""
    return html.paragraph(
        f"Nothing by {column}: {people.table} has no column {column}{what}.", "soft"
    )


def _wide(header: Sequence[str], rows: Iterable[Sequence[str]], label: str) -> str:
    """A table of a name and numbers that may be wider than the page."""
    return html.scroll(html.table(header, rows, numbers=range(1, len(header))), label)


def _number(found: Interval) -> str:
    return f"{found.value:.4f} ({found.low:.3f}–{found.high:.3f})"


def _percent(found: Share) -> str:
    return f"{found.value:.1%} ({100 * found.low:.0f}–{100 * found.high:.0f})"


def _span(found: Share) -> tuple[float, float, float]:
    return found.value, found.low, found.high
