"""The page of an evaluation: how good the answers are, for whom they are not, and who gave them."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.base.files import write_whole
from common.data.layout import AGE_BORDERS
from common.data.loading import crop_all
from common.faces.crop import Cropped
from common.inference.checks import REPORT
from common.inference.ensemble import all_models
from common.inference.job import Job
from common.inference.predictor import Answers
from common.inference.report import cards, evaluation
from common.inference.report.evaluation import Gap, Interval, Share
from common.inference.report.subjects import Subjects
from common.inference.submissions import score_notes
from common.model.calibration import expected_calibration_error
from common.model.metrics import score
from common.render import figures
from common.render import page as html

MISTAKES = 24  # shown of a task
EACH = 2  # of them of one person
CONFUSIONS = 10  # listed, the most frequent
FACES = {True: "face found", False: "centre crop", None: ""}
NEAR = ((1, 2), (3, 5), (6, 10), (11, 120))  # years from a border
METHOD = (
    "Intervals are of 95%. Those of macro F1, F1 and of the scores at the top: persons drawn with "
    f"replacement {evaluation.RESAMPLES:,} times, all photos of a person together (percentile "
    "bootstrap); a class that few persons are of may be missing among those drawn and then counts "
    "as F1 0, which makes such intervals low. Those of other shares: Wilson's score interval on the "
    "effective number of photos, as photos of a person resemble one another (where all or none are "
    "right, those of a person count as one); those of differences: Newcombe's of two such "
    "intervals. Nothing is random from one run to the next.",
    f"A gap is reported where a group of at least {evaluation.LEAST_PHOTOS} photos lies more than "
    f"{100 * evaluation.WIDE_GAP:.0f} points below the best group of as many. The worst and the "
    "best of many groups are found by the same photos, so that a gap looks wider than it is; its "
    "interval doesn't make up for that.",
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


class Grouping(NamedTuple):
    """Photos by group: (photos,) names, "" where it isn't known, and all names in order."""

    title: str
    groups: np.ndarray
    names: Sequence[str]

    def shares(self, told: Told, persons: np.ndarray) -> dict[str, Share]:
        """Each group's share of right answers, in order."""
        found = evaluation.shares_by(self.groups, told.right, persons)
        return {name: found[name] for name in self.names if name in found}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a job answered about photos whose true codes are known.

    `true` is (photos,) codes; `names` and `paths` are the photos', and `notes` lines that say which
    persons these are and what decided.
    """

    job: Job
    true: np.ndarray
    answers: Answers
    subjects: Subjects
    names: Sequence[str]
    paths: Sequence[Path]
    notes: Sequence[str]

    @functools.cached_property
    def whole(self) -> Told:
        """The codes."""
        names = self.job.codes.names
        return Told(f"{len(names)} codes", names, self.true, self.job.codes.of(self.answers))

    @functools.cached_property
    def tasks(self) -> list[Told]:
        """The tasks, in order; a photo without a code has no answer of any."""
        codes, bad = self.job.codes, self.whole.said < 0
        return [
            Told(task, words, true, np.where(bad, -1, self.answers.classes(task)))
            for (task, words), true in zip(
                codes.classes.items(), codes.decode(self.true), strict=True
            )
        ]

    @property
    def all(self) -> list[Told]:
        """The codes and the tasks."""
        return [self.whole, *self.tasks]

    @functools.cached_property
    def scores(self) -> dict[str, evaluation.Scored]:
        """The scores of the codes and of each task, by name."""
        persons = self.subjects.persons
        return {
            told.name: evaluation.scored(told.true, told.said, persons, len(told.words))
            for told in self.all
        }

    @functools.cached_property
    def groupings(self) -> list[Grouping]:
        """Persons by the tasks after the first, whose classes a person keeps, by race, by both."""
        kept, races = self.tasks[1:], self.subjects.races
        words = [np.array(told.words, dtype=object)[told.true] for told in kept]
        traits = np.array([" ".join(of_photo) for of_photo in zip(*words, strict=True)])
        order = np.lexsort([told.true for told in reversed(kept)])
        names = list(dict.fromkeys(traits[order].tolist()))
        title = " × ".join(told.name for told in kept)
        found = [Grouping(title, traits, names)]
        of_race = np.unique(races[races != ""]).tolist()
        if len(of_race) > 1:
            both = [f"{a} {b}" if b else "" for a, b in zip(traits, races, strict=True)]
            every = [f"{a} {b}" for a in names for b in of_race]
            found.append(Grouping("race", races, of_race))
            found.append(Grouping(f"{title} × race", np.array(both), every))
        return found


def write_report(report: Evaluation) -> None:
    """Write the page into the folder that --report names, which is there, and say so."""
    file = report.job.arguments.report / REPORT
    with report.job.stages("report"):
        sheets = {told.name: list(mistakes(report, told)) for told in report.tasks}
        write_whole(file, page(report, sheets).encode(errors="xmlcharrefreplace"))
    print(f"report → {file}")


def mistakes(report: Evaluation, told: Told) -> Iterator[tuple[np.ndarray, str]]:
    """The crops that a task was surest and wrong about, as its first model sees them, and a line."""
    probabilities = report.answers.probabilities[told.name]
    places = evaluation.surest_mistakes(
        told.true, told.said, probabilities, report.subjects.persons, most=MISTAKES, each=EACH
    )
    spec = report.job.ensembles[told.name].models[0].spec
    paths = [report.paths[place] for place in places]
    cache = report.job.arguments.cache_dir
    batches = crop_all(paths, [spec], cache, workers=0) if paths else ()
    crops = [crop for batch in batches for crop in batch]
    for place, crop in zip(places, crops, strict=True):
        if isinstance(crop, Cropped):  # else the photo is gone since it was answered for
            true, said = told.true[place], told.said[place]
            sure = probabilities[place, said]
            words = f"true {told.words[true]}, said {told.words[said]} ({sure:.0%})"
            yield crop.images[0], f"{words}: {report.names[place]}"


def page(report: Evaluation, sheets: Mapping[str, Sequence[tuple[np.ndarray, str]]]) -> str:
    """The whole page as HTML; `sheets`: task → its surest mistakes' crops, with captions."""
    persons = len(np.unique(report.subjects.persons))
    of = f" of {persons:,} persons" if report.subjects.same_person else ""
    sections: dict[str, Callable[[Evaluation], Iterable[str]]] = {
        "Scores": _scores,
        "Confusions": _confusions,
        "Classes": _classes,
        "Calibration": _calibration,
        "Errors by age": _ages,
        "Groups of persons": _groups,
        "Kinds of photos": _kinds,
        "Surest mistakes": lambda _: _sheets(sheets),
        "Time": lambda _: cards.times(report.job.stages.seconds),
        "Models": lambda _: cards.models(all_models(report.job.ensembles)),
        "How it is counted": lambda _: map(html.paragraph, METHOD),
    }
    parts = list(_top(report))
    for title, section in sections.items():
        parts += [html.heading(title), *section(report)]
    return html.page(f"Report on {len(report.true):,} photos{of}", parts)


def _top(report: Evaluation) -> Iterator[str]:
    """The score, the widest gap of each grouping, and what a reader must know of both."""
    whole, persons = report.whole, report.subjects.persons
    found = report.scores[whole.name]
    f1, accuracy = found.macro_f1, found.accuracy
    yield html.verdict(
        f"{whole.name} macro F1 {f1.value:.4f} (95%: {f1.low:.3f} to {f1.high:.3f}), accuracy "
        f"{accuracy.value:.4f} (95%: {accuracy.low:.3f} to {accuracy.high:.3f})", "",
    )  # fmt: skip
    for grouping in report.groupings:
        told = max(report.all, key=lambda told: _widest(grouping.shares(told, persons)))
        yield from _gap_lines(report, told, grouping, others=False)
    notes = [*report.notes, *score_notes(report.job.codes, report.true, whole.said)]
    if not report.subjects.same_person:
        notes.append(
            f"no column person or id in {report.subjects.table}: each photo counts as one of another "
            "person; if a person has several, all intervals are too narrow"
        )
    yield from (html.paragraph(f"{note[:1].upper()}{note[1:]}.", "soft") for note in notes)


def _widest(shares: Mapping[str, Share]) -> float:
    found = evaluation.gaps(shares)
    return found[0].difference.value if found else 0.0


def _scores(report: Evaluation) -> Iterator[str]:
    rows = []
    for told in report.all:
        found = report.scores[told.name]
        rows.append((html.plain(told.name), _number(found.macro_f1), _number(found.accuracy)))
    yield html.table(("", "macro F1", "accuracy"), rows, numbers=(1, 2))


def _confusions(report: Evaluation) -> Iterator[str]:
    yield html.paragraph(
        "Photos by true class and answer; stronger the larger a share of the true class.", "soft"
    )
    drawn = []
    for told in report.tasks:
        confusion = score(told.true, told.said, len(told.words)).confusion
        title = f"confusion matrix of {told.name}"
        drawn.append((figures.confusion(confusion, told.words, told.words, title), told.name))
    yield html.figures(drawn)
    whole = report.whole
    confusion = score(whole.true, whole.said, len(whole.words)).confusion
    numbers = [str(code) for code in range(len(whole.words))]
    rows = [f"{name}  {code}" for code, name in enumerate(whole.words)]
    svg = figures.confusion(confusion, rows, numbers, f"confusion matrix of the {whole.name}")
    text = f"{whole.name}, at the bottom by number"
    yield html.scroll(html.figures([(svg, text)]), whole.name)
    yield html.heading("Most frequent confusions", 3)
    yield _frequent(whole, confusion)


def _frequent(told: Told, confusion: np.ndarray) -> str:
    wrong = confusion * (1 - np.eye(len(confusion), dtype=int))
    order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS]
    support = np.bincount(told.true, minlength=len(told.words))
    rows = []
    for true, said in zip(*np.unravel_index(order, wrong.shape), strict=True):
        if wrong[true, said]:
            words = html.plain(told.words[true]), html.plain(told.words[said])
            part = wrong[true, said] / support[true]
            rows.append((*words, f"{wrong[true, said]:,} of {support[true]:,} ({part:.0%})"))
    header = ("true", "answered", "photos")
    return html.scroll(html.table(header, rows, numbers=[2]), "most frequent confusions")


def _classes(report: Evaluation) -> Iterator[str]:
    for told in report.all:
        yield html.heading(told.name, 3)
        yield _class_table(report, told)


def _class_table(report: Evaluation, told: Told) -> str:
    persons, f1 = report.subjects.persons, report.scores[told.name].f1
    rows = []
    for place, word in enumerate(told.words):
        mine, answered = told.true == place, told.said == place
        recall = _percent(evaluation.share(told.right[mine], persons[mine])) if any(mine) else "–"
        precision = f"{told.right[answered].mean():.1%}" if any(answered) else "–"
        rows.append((html.plain(word), f"{mine.sum():,}", recall, precision, _number(f1[place])))
    header = ("class", "photos", "recall", "precision", "F1")
    return _wide(header, rows, f"classes of {told.name}")


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
        if good.any():
            persons = report.subjects.persons[good]
            bins = evaluation.reliability(shares[good], told.true[good], persons)
            error = expected_calibration_error(shares[good], told.true[good])
            drawn.append(_reliability(told.name, bins, error))
            tables.append(html.more(f"{told.name} in numbers", _bins(bins)))
    yield html.figures(drawn)
    yield from tables


def _reliability(task: str, bins: Sequence[evaluation.Bin], error: float) -> tuple[str, str]:
    photos = sum(b.right.photos for b in bins)
    excess = sum((b.probability - b.right.value) * b.right.photos for b in bins) / photos
    text = (
        f"{task}: expected calibration error {error:.3f}; probabilities {100 * abs(excess):.1f} "
        f"points too {'high' if excess > 0 else 'low'} on average"
    )
    points = [(b.probability, *_span(b.right)) for b in bins]
    return figures.reliability(points, text, ("probability of the likeliest class", "right")), text


def _bins(bins: Sequence[evaluation.Bin]) -> str:
    rows = [(f"{b.probability:.1%}", _percent(b.right), f"{b.right.photos:,}") for b in bins]
    return html.table(("mean probability", "right", "photos"), rows, numbers=(0, 1, 2))


def _ages(report: Evaluation) -> Iterator[str]:
    people = report.subjects
    known = ~np.isnan(people.years)
    if not known.any():
        yield _absent(people, "age", " with years")
        return
    last = AGE_BORDERS[-1]
    clipped = f" {last} stands for all from {last} on." if np.nanmax(people.years) == last else ""
    yield html.paragraph(
        f"The share of wrong answers by true age, of {known.sum():,} photos: dots for each year, "
        f"line and band with the ages up to {evaluation.WINDOW} years away in the same age group; "
        f"dashed lines are the borders between age groups.{clipped}", "soft",
    )  # fmt: skip
    yield html.figures((_by_age(told, people), told.name) for told in report.tasks)
    yield from _borders(report)
    found = [
        evaluation.shares_by(people.years, ~told.right, people.persons) for told in report.tasks
    ]
    rows = [
        (f"{age:.0f}", f"{s.photos:,}", f"{s.persons:,}", *(_percent(of[age]) for of in found))
        for age, s in found[0].items()
    ]
    header = ("age", "photos", "persons", *(f"{told.name} wrong" for told in report.tasks))
    yield html.more("every age in numbers", _wide(header, rows, "errors by age"))


def _by_age(told: Told, people: Subjects) -> str:
    each = evaluation.shares_by(people.years, ~told.right, people.persons)
    around = evaluation.shares_around(people.years, ~told.right, people.persons)
    return figures.band(
        [(age, *_span(s)) for age, s in around.items()],
        [(age, s.value) for age, s in each.items()],
        f"errors of {told.name} by age",
        ("true age in years", "wrong"),
        marks=[border - 0.5 for border in AGE_BORDERS],
    )


def _borders(report: Evaluation) -> Iterator[str]:
    """Errors by the distance from the nearest border between age groups."""
    away, persons = evaluation.years_to_border(report.subjects.years), report.subjects.persons
    rows = []
    for first, last in NEAR:
        mine = (away >= first) & (away <= last)
        if mine.any():
            found = [evaluation.share(~told.right[mine], persons[mine]) for told in report.tasks]
            name = f"{first} to {last}" if last < NEAR[-1][1] else f"{first} and more"
            counts = f"{found[0].photos:,}", f"{found[0].persons:,}"
            rows.append((name, *counts, *map(_percent, found)))
    yield html.heading("Near the borders", 3)
    yield html.paragraph(
        "By years from the nearest border: 1 for those of 29, 30, 59 and 60.", "soft"
    )
    header = ("years", "photos", "persons", *(f"{told.name} wrong" for told in report.tasks))
    yield _wide(header, rows, "errors near the borders")


def _groups(report: Evaluation) -> Iterator[str]:
    people = report.subjects
    yield html.paragraph(
        "How many answers are right, by the true groups of the persons; in brackets the number of "
        "photos. Dashed: everyone.", "soft",
    )  # fmt: skip
    names = np.unique(people.races[people.races != ""])
    if not len(names):
        yield _absent(people, "race")
    elif len(names) == 1:
        yield html.paragraph(f"Nothing by race: {people.table} has only {names[0]}.", "soft")
    for grouping in report.groupings:
        yield html.heading(f"By {grouping.title}", 3)
        for told in report.all:
            yield from _gap_lines(report, told, grouping)
        yield from _group_shares(report, grouping)


def _group_shares(report: Evaluation, grouping: Grouping) -> Iterator[str]:
    """Each group's shares of right answers, as figures and as a table."""
    found = {told.name: grouping.shares(told, report.subjects.persons) for told in report.all}
    drawn = []
    for told in report.all:
        spans = {f"{name} ({s.photos:,})": _span(s) for name, s in found[told.name].items()}
        title = f"{told.name}: right by {grouping.title}"
        svg = figures.intervals(spans, title, "right", mark=told.right.mean())
        drawn.append((svg, told.name))
    yield html.figures(drawn)
    header = ("group", "photos", "persons", *found)
    rows = [
        (html.plain(name), f"{s.photos:,}", f"{s.persons:,}",
         *(_percent(of_told[name]) for of_told in found.values()))
        for name, s in found[report.whole.name].items()
    ]  # fmt: skip
    yield html.more("in numbers", _wide(header, rows, f"right by {grouping.title}"))


def _gap_lines(
    report: Evaluation, told: Told, grouping: Grouping, *, others: bool = True
) -> Iterator[str]:
    """The widest gap between groups in words, if there is a wide one, and which others there are."""
    shares = grouping.shares(told, report.subjects.persons)
    found = evaluation.gaps(shares)
    if not found:
        return
    text = _gap_words(told, shares, found[0])
    if others and found[1:]:
        rest = (f"{gap.worse} ({100 * gap.difference.value:.0f})" for gap in found[1:])
        text += f" Other groups and points below the best: {', '.join(rest)}."
    yield html.verdict(text, "error" if found[0].difference.low > 0 else "warning")


def _gap_words(told: Told, shares: Mapping[str, Share], gap: Gap) -> str:
    worse, best = shares[gap.worse], shares[gap.best]
    width, low, high = (f"{100 * points:.0f}" for points in gap.difference)
    chance = ", which may be chance" if gap.difference.low <= 0 else ""
    return (
        f"{told.name}: {worse.value:.0%} of {gap.worse} are right (n = {worse.photos:,} photos of "
        f"{worse.persons:,} persons), {width} points (95%: {low} to {high}{chance}) below "
        f"{gap.best} ({best.value:.0%}, n = {best.photos:,} of {best.persons:,}); everyone: "
        f"{told.right.mean():.0%}."
    )


def _kinds(report: Evaluation) -> Iterator[str]:
    """By the first task's true class, which changes from photo to photo, and by face."""
    first = report.tasks[0]
    words, faces = np.array(first.words), np.array([FACES[f] for f in report.answers.found])
    yield html.paragraph(
        "The share of right answers, and the macro F1 over the classes that occur in the row.",
        "soft",
    )
    for grouping in (
        Grouping(f"true {first.name}", words[first.true], first.words),
        Grouping("face", faces, [name for name in FACES.values() if name]),
    ):
        yield html.heading(f"By {grouping.title}", 3)
        if (grouping.groups == "").all():
            yield html.paragraph("No face was looked for.", "soft")
        else:
            yield from _kind_tables(report, grouping)


def _kind_tables(report: Evaluation, grouping: Grouping) -> Iterator[str]:
    persons, header = report.subjects.persons, [told.name for told in report.all]
    shares = [grouping.shares(told, persons) for told in report.all]
    rows = [
        (
            html.plain(name),
            f"{s.photos:,}",
            f"{s.persons:,}",
            *(_percent(of[name]) for of in shares),
        )
        for name, s in shares[0].items()
    ]
    label = f"right by {grouping.title}"
    yield _wide(("right", "photos", "persons", *header), rows, label)
    rows = [
        (html.plain(name), *(_f1_within(t, grouping.groups == name, persons) for t in report.all))
        for name in shares[0]
    ]
    yield _wide(("macro F1", *header), rows, f"macro F1 by {grouping.title}")


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
    """A table of names and numbers that may be wider than the page."""
    return html.scroll(html.table(header, rows, numbers=range(1, len(header))), label)


def _number(found: Interval) -> str:
    return f"{found.value:.4f} {_range(f'{found.low:.3f}–{found.high:.3f}')}"


def _percent(found: Share) -> str:
    return f"{found.value:.1%} {_range(f'{100 * found.low:.0f}–{100 * found.high:.0f}')}"


def _range(text: str) -> str:
    return f'<span class="range">({text})</span>'


def _span(found: Share) -> tuple[float, float, float]:
    return found.value, found.low, found.high
