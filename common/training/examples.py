"""The photos that a training learns from and is validated on: chosen, labelled, filtered, counted."""

import dataclasses
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.base.errors import UserError, warn
from common.data.dataset import FaceDataset, PersonSampler, SeededSampler
from common.data.extra import Extra
from common.data.label_fixes import TIERS, Fixes, by_person, fix_report, fixed, read_fixes
from common.data.layout import Face, Person, print_left_out, read_mixed
from common.data.pseudo import DrawnTarget
from common.data.split import descended
from common.model.heads import UNLABELLED, Head
from common.model.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class Example:
    """One photo of a training, with its labels as the recipe defines them.

    `label` is the index of its official class. `train_label` and `target` are what training uses
    instead: a class index and the input of the loss, with `heads` a tuple of the task's own target
    and one for each head; with pseudo-labels it is drawn anew each time, and the labels are the
    most probable class. Both are None for held-out photos and those that training leaves out.
    """

    face: Face
    held_out: bool
    label: int
    train_label: int | None = None
    target: int | tuple[int, ...] | DrawnTarget | None = None

    @property
    def labels(self) -> tuple[Any, ...]:
        """All labels of the photo, and whether it is held out."""
        return self.held_out, self.label, self.train_label, self.target

    @property
    def trained_on(self) -> bool:
        """True if training uses the photo."""
        return self.train_label is not None


@dataclasses.dataclass(frozen=True)
class Data:
    """The data sets of one training.

    `counts` are the photos of each class in an epoch, `sampler` is their order, and `held_out` the
    faces of `validation` in its order.
    """

    training: FaceDataset
    validation: FaceDataset
    counts: list[int]
    sampler: SeededSampler
    held_out: list[Face]


def labelled(recipe: Recipe, faces: Sequence[Face], table: Path) -> list[Face]:
    """Select the photos of `table` that have a label; prints how many are left out.

    Raises:
        UserError: no photo has one.
    """
    kept = [face for face in faces if recipe.label(face) is not None]
    if not kept:
        columns = ", ".join(faces[0].person.columns)
        raise UserError(
            f"{table}: {recipe.unlabelled}: {recipe.task} can't be trained on it "
            f"(columns: {columns})"
        )
    print_left_out(faces, kept, f"without a label for {recipe.task}")
    return kept


def choose_faces(
    recipe: Recipe,
    data: Path,
    faces: Sequence[Face],
    people: set[Person],
    held_out: Collection[str],
    others: Iterable[Extra] = (),
) -> list[Face]:
    """Select the photos of `people`, of mixed people, and of `others`.

    Labels of people who are not held out are corrected by --label-fixes. A mixed person is used
    only if both parents are trained on with unchanged labels.
    """
    chosen = [face for face in faces if face.person in people]
    training = {face.person.key for face in chosen}.difference(held_out)
    fixes = fixes_for(training, faces, recipe.label_fixes) if recipe.label_fixes else {}
    mixed = [f for f in read_mixed(data) if recipe.label(f) is not None] if recipe.mixed else []
    used = descended(mixed, training - fixes.keys())  # a mixture has its parents' wrong labels
    if mixed:
        kept, everybody = ({face.person for face in part} for part in (used, mixed))
        print(f"mixed: {len(kept):,} people, {len(used):,} photos", end="")
        left = len(everybody) - len(kept)
        reason = "a parent is held out, beyond --limit or corrected"
        print(f" ({left:,} left out: {reason})" if left else "")
    return fixed(chosen, fixes) + used + [f for o in others for f in o.unseen(held_out)]


def fixes_for(training: set[str], faces: Sequence[Face], chosen: str) -> Fixes:
    """Read the fixes that --label-fixes names, for the keys in `training`, and print them.

    The built-in fixes name people of the competition's table by their id, which other tables use
    for other people: if most of these ids are missing, none is applied.
    """
    rows = read_fixes(chosen)
    here = by_person(rows, {face.person for face in faces})
    if chosen in TIERS and 2 * len(here) < len(rows):
        warn(
            f"--label-fixes {chosen} is made for the competition's train.csv; {len(here)} of its "
            f"{len(rows)} ids are in this one, so nothing is fixed"
        )
        return {}
    used = {key: whats for key, whats in here.items() if key in training}
    print("\n".join(fix_report(len(rows), here, used, faces)))
    return used


def make_examples(
    recipe: Recipe, faces: Iterable[Face], held_out: Collection[str], heads: Sequence[Head] = ()
) -> list[Example]:
    """Label each of `faces`; only training is filtered and relabelled by the recipe.

    `held_out` are the keys of the people to validate on.
    """
    return [_example(recipe, face, face.person.key in held_out, heads) for face in faces]


def _example(recipe: Recipe, face: Face, held_out: bool, heads: Sequence[Head]) -> Example:
    if probabilities := face.probabilities.get(recipe.task):
        return _pseudo_example(recipe, face, probabilities, heads)
    label = recipe.label(face)
    if held_out or not recipe.trains_on(face):
        return Example(face, held_out, label)
    own = recipe.target(face)
    target = (own, *(head.label(face) for head in heads)) if heads else own
    return Example(face, held_out, label, recipe.train_label(face), target)


def _pseudo_example(
    recipe: Recipe, face: Face, probabilities: Sequence[float], heads: Sequence[Head]
) -> Example:
    likely = max(range(len(probabilities)), key=probabilities.__getitem__)
    own = [recipe.class_target(index) for index in range(len(probabilities))]
    unknown = [UNLABELLED] * len(heads)
    targets = tuple((target, *unknown) if heads else target for target in own)
    return Example(face, False, likely, likely, DrawnTarget(tuple(probabilities), targets))


def check_learnable(recipe: Recipe, examples: Sequence[Example]) -> None:
    """Check, before any photo is cropped, that there is something to learn and to validate on.

    Raises:
        UserError: no photo is held out, or a class has no photo to train on.
    """
    if not any(example.held_out for example in examples):
        raise UserError(
            f"nobody who has a label for {recipe.task} is held out: nothing to validate on (people "
            "are dealt to folds whether or not they have one; try another --fold, or more people)"
        )
    refuse_empty(recipe.classes, Counter(e.train_label for e in examples if e.trained_on))


def refuse_empty(classes: Sequence[str], counts: Mapping[int, int]) -> None:
    """Raise UserError if a class, by its index in `counts`, has no photo."""
    empty = [name for index, name in enumerate(classes) if not counts[index]]
    if empty:
        raise UserError(f"no training photo of class {', '.join(empty)}: nothing to learn from")


def datasets(recipe: Recipe, examples: Sequence[Example], crops: Mapping[Path, Path]) -> Data:
    """Make the data sets of the examples whose photo has a crop, and print their sizes.

    `crops` holds each photo's crop.

    Raises:
        UserError: no usable photo is held out, or a class has none to train on.
    """
    usable = [example for example in examples if example.face.path in crops]
    held = [example for example in usable if example.held_out]
    others = [example for example in usable if not example.held_out]
    kept = [example for example in others if example.trained_on]
    if not held:
        raise UserError("no usable photo to validate on")
    counts = describe("training", kept, [e.train_label for e in kept], recipe.classes)
    relabelled = sum(e.train_label != e.label for e in kept)
    if relabelled:
        print(f"relabelled for training: {relabelled:,} photos")
    if len(kept) < len(others):
        left = {e.face.person for e in others} - {e.face.person for e in kept}
        print(f"left out of training: {len(others) - len(kept):,} photos of {len(left):,} people")
    labels = [example.label for example in held]
    describe("validation", held, labels, recipe.classes)
    refuse_empty(recipe.classes, dict(enumerate(counts)))
    copies = repeats(recipe, counts)
    kept = [example for example in kept for _ in range(copies[example.train_label])]
    usual, rare = recipe.augment(), recipe.augment(rare=True)
    training = FaceDataset(
        [crops[example.face.path] for example in kept],
        [example.target for example in kept],
        [rare if copies[example.train_label] > 1 else usual for example in kept],
    )
    return Data(
        training,
        FaceDataset([crops[example.face.path] for example in held], labels),
        [n * times for n, times in zip(counts, copies, strict=True)],
        make_sampler(recipe, kept),
        [example.face for example in held],
    )


def repeats(recipe: Recipe, counts: Sequence[int]) -> list[int]:
    """Count how often a photo of each class is used in an epoch: --rare-crops times if it is rare."""
    few = sum(counts) / len(counts) / 2
    copies = [recipe.rare_crops if n < few else 1 for n in counts]
    if recipe.rare_crops > 1:
        rare = [name for name, times in zip(recipe.classes, copies, strict=True) if times > 1]
        print(f"cropped at random, {recipe.rare_crops} times an epoch: {', '.join(rare) or 'none'}")
    return copies


def make_sampler(recipe: Recipe, examples: Sequence[Example]) -> SeededSampler:
    """Make the order of an epoch's `examples` that --sampler names."""
    if recipe.sampler == "person":
        keys = [example.face.person.key for example in examples]
        return PersonSampler(keys, recipe.seed, recipe.batch_size)
    groups: list[Hashable] = []
    if recipe.sampler == "class":
        groups = [example.train_label for example in examples]
    elif recipe.sampler == "class-gender":
        groups = [(example.train_label, example.face.gender) for example in examples]
    return SeededSampler(len(examples), recipe.seed, groups)


def describe(
    title: str, examples: Sequence[Example], labels: Sequence[int], classes: Sequence[str]
) -> list[int]:
    """Print how many people and photos there are; returns the number of photos of each class."""
    found = Counter(labels)
    counts = [found[index] for index in range(len(classes))]
    by_class = ", ".join(f"{name} {n:,}" for name, n in zip(classes, counts, strict=True))
    people = {example.face.person for example in examples if not example.face.probabilities}
    print(f"{title}: {len(people):,} people, {len(examples):,} photos ({by_class})")
    return counts
