"""What a training learns from and is judged by: faces with their crops, chosen and counted."""

import dataclasses
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path

from common.base.errors import UserError, warn
from common.data.dataset import FaceDataset, PersonSampler, SeededSampler
from common.data.extra import Extra
from common.data.label_fixes import TIERS, Fixes, by_person, described, fixed, read_fixes
from common.data.layout import Face, Person, print_left_out, read_mixed
from common.data.split import descended
from common.model.heads import Head
from common.model.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class Data:
    """What a training learns from and is judged by.

    `counts` are training photos per class; `sampler` says in which order they are seen; `held_out`
    are validation's faces, in its order.
    """

    training: FaceDataset
    validation: FaceDataset
    counts: list[int]
    sampler: SeededSampler
    held_out: list[Face]


def labelled(recipe: Recipe, faces: Sequence[Face], table: Path) -> list[Face]:
    """The photos of `table` whose label is known; says whom that leaves out. UserError for none."""
    known = [face for face in faces if recipe.knows(face)]
    if not known:
        columns = ", ".join(faces[0].person.columns)
        raise UserError(
            f"{table}: {recipe.unlabelled}; without, there is nothing for {recipe.task} to learn "
            f"(columns: {columns})"
        )
    print_left_out(faces, known, f"their {recipe.task} isn't known")
    return known


def choose_faces(
    recipe: Recipe,
    data: Path,
    faces: Sequence[Face],
    people: set[Person],
    held_out: set[str],
    others: Iterable[Extra] = (),
) -> list[Face]:
    """The photos of `people`, those to train on with corrected labels; the mixed persons'; `others`."""
    chosen = [face for face in faces if face.person in people]
    training = {face.person.key for face in chosen} - held_out
    fixes = fixes_for(training, faces, recipe.label_fixes) if recipe.label_fixes else {}
    mixed = [face for face in read_mixed(data) if recipe.knows(face)] if recipe.mixed else []
    used = descended(mixed, training - fixes.keys())  # a mixture has its parents' wrong labels
    if mixed:
        persons, everybody = ({face.person for face in part} for part in (used, mixed))
        print(f"mixed: {len(persons):,} persons, {len(used):,} photos", end="")
        left = len(everybody) - len(persons)
        reason = "a parent is held out, beyond --limit or corrected"
        print(f" ({left:,} left out: {reason})" if left else "")
    return fixed(chosen, fixes) + used + [f for o in others for f in o.unseen(held_out)]


def check_learnable(recipe: Recipe, faces: Sequence[Face], held_out: set[str]) -> None:
    """UserError, before any photo is cropped, for what `datasets` would refuse after that."""
    others = [face for face in faces if face.person.key not in held_out]
    if len(others) == len(faces):
        raise UserError(
            f"nobody whose {recipe.task} is known is held out: nothing to validate on (persons are "
            "dealt to folds whatever is known of them; try another --fold, or more persons)"
        )
    counts = Counter(recipe.train_label(face) for face in others if recipe.trains_on(face))
    refuse_empty(recipe.classes, counts)


def refuse_empty(classes: Sequence[str], counts: Mapping[int, int]) -> None:
    """UserError where a class, by its index, has no photo."""
    empty = [name for index, name in enumerate(classes) if not counts[index]]
    if empty:
        raise UserError(f"no training photo of class {', '.join(empty)}: nothing to learn from")


def fixes_for(training: set[str], faces: Sequence[Face], chosen: str) -> Fixes:
    """The fixes of --label-fixes for the persons whose keys are in `training`; prints them.

    The known errors are the competition's, told by ids that other data sets use for other people:
    where most of them are missing, none is applied.
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
    print("\n".join(described(len(rows), here, used, faces)))
    return used


def datasets(
    recipe: Recipe,
    faces: Sequence[Face],
    files: Mapping[Path, Path],
    validation: set[str],
    heads: Sequence[Head],
) -> Data:
    """Pair faces with their crops; only training is filtered and relabelled by the recipe.

    With `heads`, training's labels are tuples: the recipe's target, then that of each head.
    """
    usable = [(face, files[face.path]) for face in faces if face.path in files]
    held = [(f, c) for f, c in usable if f.person.key in validation]
    others = [(f, c) for f, c in usable if f.person.key not in validation]
    kept = [(f, c) for f, c in others if recipe.trains_on(f)]
    if not held:
        raise UserError("no usable photo to validate on")
    counts = describe("training", kept, [recipe.train_label(f) for f, _ in kept], recipe.classes)
    told = sum(recipe.train_label(f) != recipe.label(f) for f, _ in kept)
    if told:
        print(f"told otherwise in training: {told:,} photos")
    if len(kept) < len(others):
        left = {f.person for f, _ in others} - {f.person for f, _ in kept}
        print(f"left out of training: {len(others) - len(kept):,} photos of {len(left):,} persons")
    labels = [recipe.label(f) for f, _ in held]
    describe("validation", held, labels, recipe.classes)
    refuse_empty(recipe.classes, dict(enumerate(counts)))
    copies = repeats(recipe, counts)
    kept = [(f, c) for f, c in kept for _ in range(copies[recipe.train_label(f)])]
    usual, rare = recipe.augment(), recipe.augment(rare=True)
    training = FaceDataset(
        [c for _, c in kept],
        [targets(recipe, heads, f) for f, _ in kept],
        [rare if copies[recipe.train_label(f)] > 1 else usual for f, _ in kept],
    )
    return Data(
        training,
        FaceDataset([c for _, c in held], labels),
        [n * times for n, times in zip(counts, copies, strict=True)],
        make_sampler(recipe, [f for f, _ in kept]),
        [f for f, _ in held],
    )


def targets(recipe: Recipe, heads: Sequence[Head], face: Face) -> int | tuple[int, ...]:
    """What the training loss is told of `face`."""
    own = recipe.target(face)
    return (own, *(head.label(face) for head in heads)) if heads else own


def repeats(recipe: Recipe, counts: Sequence[int]) -> list[int]:
    """How often a photo of each class stands in an epoch: --rare-crops times where it is rare."""
    few = sum(counts) / len(counts) / 2
    copies = [recipe.rare_crops if n < few else 1 for n in counts]
    if recipe.rare_crops > 1:
        rare = [name for name, times in zip(recipe.classes, copies, strict=True) if times > 1]
        print(f"cropped at random, {recipe.rare_crops} times an epoch: {', '.join(rare) or 'none'}")
    return copies


def make_sampler(recipe: Recipe, faces: Sequence[Face]) -> SeededSampler:
    """The order in which training sees the photos of `faces`, as --sampler says."""
    if recipe.sampler == "person":
        return PersonSampler([f.person.key for f in faces], recipe.seed, recipe.batch_size)
    groups: list[Hashable] = []
    if recipe.sampler != "shuffle":
        groups = [recipe.train_label(face) for face in faces]
    if recipe.sampler == "class-gender":
        groups = [(group, face.gender) for group, face in zip(groups, faces, strict=True)]
    return SeededSampler(len(faces), recipe.seed, groups)


def describe(
    title: str,
    pairs: Sequence[tuple[Face, Path]],
    labels: Sequence[int],
    classes: Sequence[str],
) -> list[int]:
    """Print how many persons and photos, and how many of each class; returns the latter."""
    found = Counter(labels)
    counts = [found[index] for index in range(len(classes))]
    shares = ", ".join(f"{name} {n:,}" for name, n in zip(classes, counts, strict=True))
    people = {face.person for face, _ in pairs}
    print(f"{title}: {len(people):,} persons, {len(pairs):,} photos ({shares})")
    return counts
