"""Everything that comes before the first step: checks, choice of photos, network, crops."""

import dataclasses
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from common.base.errors import UserError, counted, listed, printable, warn
from common.base.files import LEFTOVERS, made_folder, remove_leftovers, writable_file
from common.base.processes import is_main, local_processes, local_rank, processes
from common.base.run_settings import Run, available_cores
from common.base.stages import Stages
from common.data.extra import Extra, read_extra, same_photos, table_hash
from common.data.layout import Face, Person, eval_dir, eval_images, read_faces, train_dir
from common.data.learned import learned, short
from common.data.loading import Prepared, prepare_crops
from common.data.pseudo import read_pseudo
from common.data.split import learned_from, make_split, missing_strata
from common.faces.cache import photo_key
from common.faces.detector import check_detector
from common.model import checkpoint
from common.model.device import (
    check_compile,
    describe_device,
    keep_memory,
    pick_device,
    share_cores,
)
from common.model.heads import Head, make_heads
from common.model.network import Classifier, check_model
from common.model.recipe import Recipe
from common.model.trial import trial_step
from common.model.weights import create_classifier, weights_card
from common.render.text import filled
from common.training.distributed import barrier, with_global_batch_norm
from common.training.examples import (
    Example,
    check_learnable,
    choose_faces,
    labelled,
    make_examples,
)
from common.training.experiments import changes
from common.training.messages import model_line
from common.training.optimization import check_optimizer, make_optimizer
from common.training.resume import LAST, resume_file
from common.training.wandb_log import check_wandb


@dataclasses.dataclass(frozen=True)
class Fold:
    """One fold's split, as a card holds it, and its examples."""

    split: Mapping[str, Any]
    examples: Sequence[Example]


@dataclasses.dataclass(frozen=True)
class PreparedRun:
    """Settings, device and crops of a run, and each fold's examples.

    `recipe` is complete: nothing in it depends on the data any more. `crops` holds each usable
    photo's crop, `stages` the seconds that cropping took. `logs` is runs/<task>.
    """

    recipe: Recipe
    run: Run
    heads: Sequence[Head]
    device: torch.device
    logs: Path
    folds: Mapping[int, Fold]
    crops: Mapping[Path, Path]
    stages: Stages

    def with_recipe(self, recipe: Recipe) -> "PreparedRun":
        """Return the same run with another recipe of the same task, crop and heads."""
        folds = {}
        for number, fold in self.folds.items():
            faces = (example.face for example in fold.examples)
            examples = make_examples(recipe, faces, set(fold.split["held_out"]), self.heads)
            folds[number] = dataclasses.replace(fold, examples=examples)
        return dataclasses.replace(self, recipe=recipe, folds=folds)


@dataclasses.dataclass(frozen=True)
class Network:
    """A network on its device, its optimizer, and where its weights come from, in words."""

    model: Classifier
    optimizer: torch.optim.Optimizer
    origin: str


def build_network(
    recipe: Recipe, device: torch.device, heads: Sequence[Head], *, resumed: bool
) -> Network:
    """Build the network of `recipe` with its first weights, which follow from the seed.

    A `resumed` one needs no weights but those of its checkpoint, which are not loaded here.

    Raises:
        UserError: the model, its weights or the optimizer can't be had.
    """
    torch.manual_seed(recipe.seed)
    extra = sum(head.outputs for head in heads)
    model, origin = create_classifier(recipe, resumed=resumed, extra=extra)
    model.backbone = with_global_batch_norm(model.backbone, device)
    model = model.to(device, memory_format=torch.channels_last)
    return Network(model, make_optimizer(recipe, model), origin)


def prepare(recipe: Recipe, run: Run) -> tuple[PreparedRun, Network]:
    """Check that a run can work, and crop its photos; returns the first fold's network, too.

    Whatever can be wrong with flags, files or labels is found before the first photo is cropped.

    Raises:
        UserError: the run can't work.
    """
    fresh = recipe.weights is None and run.resume is None
    check_model(recipe.model, pretrained=recipe.pretrained and fresh)
    check_optimizer(recipe.opt)
    device = pick_device(run.device)
    share_cores(device, loader_workers(run.workers, device), run.threads)
    keep_memory(device)
    if run.torchcompile:
        check_compile(run.torchcompile, device)
    logs = run.log_dir / recipe.task
    if is_main():
        check_run_files(recipe, run, logs)
    faces = read_faces(run.data_dir())
    usable, others = labelled_faces(recipe, run, faces)
    given = recipe
    recipe, heads = fitted(recipe, usable, others)
    others += pseudo_labelled(recipe, run, faces)
    splits = make_splits(recipe, run, faces, others)
    together = f", {processes()} processes" if processes() > 1 else ""
    folds = {}
    for number, (people, split) in splits.items():
        held_out = set(split["held_out"])
        chosen = choose_faces(recipe, run.data_dir(), usable, people, held_out, others)
        folds[number] = Fold(split, make_examples(recipe, chosen, held_out, heads))
        check_learnable(recipe, folds[number].examples)
    resumed = resume_file(run, next(iter(folds))) is not None
    network = build_network(recipe, device, heads, resumed=resumed)
    where = describe_device(device).removeprefix("on ").removeprefix("the ") + together
    print(model_line(recipe, network.model, network.origin, where))
    print(filled(f"changed from the defaults: {changes(given, run) or 'nothing'}"))
    examples = max(len(fold.examples) for fold in folds.values())
    trial_step(network.model, recipe, examples)
    if recipe.weights is not None and run.resume is None:
        refuse_seen(recipe.weights, faces, [fold.split for fold in folds.values()])
    paths = {e.face.path: e.face for fold in folds.values() for e in fold.examples}
    stages = Stages()
    with stages("crop"):
        crops = crop_faces(recipe, run, list(paths))
    warn(shared_photos(paths, crops))
    if recipe.weights is not None and run.resume is None:
        refuse_learned(recipe.weights, folds, crops)
    return PreparedRun(recipe, run, heads, device, logs, folds, crops, stages), network


def loader_workers(asked: int, device: torch.device) -> int:
    """Limit the loader processes for cached crops: on a CPU the network needs the cores.

    A loader makes 1,250 photos a second where a thread of even a small network takes 300: one is
    enough for four threads.
    """
    return min(asked, max(1, available_cores() // 5)) if device.type == "cpu" else asked


def check_run_files(recipe: Recipe, run: Run, logs: Path) -> None:
    """Check that all that the run will write can be written.

    Raises:
        UserError: something can't.
    """
    log_root(logs)
    reads = [file for file in (recipe.weights, run.resume) if isinstance(file, Path)]
    for file in run.fold_files(recipe).values():
        writable_file(file, "model", reads=reads)
        if file.is_file():
            _check_same_task(file, recipe.task)
    if run.exp_name is not None and run.resume is None and (logs / run.exp_name).exists():
        last = logs / run.exp_name / LAST
        way = f"--resume {last} goes on with it" if last.is_file() else "give another name"
        raise UserError(f"--exp-name {run.exp_name}: {last.parent} exists; {way}")
    if run.log_wandb:
        check_wandb()


def _check_same_task(file: Path, task: str) -> None:
    """Check that the file to be replaced is a checkpoint of the same task."""
    try:
        holds = checkpoint.read(file)["card"]["task"]
    except UserError as error:
        raise UserError(
            f"{error}; it would be replaced: remove it, or give another --out"
        ) from None
    if holds != task:
        raise UserError(
            f"{file}: holds a {holds} model, which this run would replace; give another --out"
        )


def log_root(folder: Path) -> Path:
    """Make runs/<task>, check that it is writable, and remove what killed trainings left in it."""
    made_folder(folder, "--log-dir")
    for place in ("..", "*", "*/fold*"):
        remove_leftovers(folder.glob(f"{place}/{LEFTOVERS}"))
    return writable_file(folder / LAST, "model").parent


def labelled_faces(
    recipe: Recipe, run: Run, faces: Sequence[Face]
) -> tuple[list[Face], list[Extra]]:
    """Select the photos with a label, of --data (`faces`) and of each --extra folder.

    Raises:
        UserError: a folder has no such photo, or is no folder to train on.
    """
    usable = labelled(recipe, faces, train_dir(run.data_dir()) / "train.csv")
    others = read_extra(run.extra, run.data_dir(), faces, run.workers)
    return usable, [
        extra.only(labelled(recipe, extra.faces, train_dir(extra.folder) / "train.csv"))
        for extra in others
    ]


def pseudo_labelled(recipe: Recipe, run: Run, faces: Sequence[Face]) -> list[Extra]:
    """Read the photos of --pseudo, if it is given; `faces` are those of --data."""
    if run.pseudo is None:
        return []
    images = run.pseudo_images or eval_images(eval_dir(run.data_dir()))
    theirs = read_pseudo(run.pseudo, images, recipe.task, recipe.classes)
    twins = same_photos(theirs, faces, run.workers)
    return [Extra(run.pseudo, theirs, twins, table_hash(theirs), pseudo=True)]


def fitted(
    recipe: Recipe, faces: Sequence[Face], others: Sequence[Extra]
) -> tuple[Recipe, list[Head]]:
    """Settle what the recipe leaves to the data, and make the auxiliary heads."""
    recipe = recipe.fitted({face.person for face in faces}, *(extra.people for extra in others))
    heads = make_heads(recipe, faces, *(extra.faces for extra in others))
    return dataclasses.replace(recipe, aux=tuple(head.name for head in heads)), heads


def make_splits(
    recipe: Recipe, run: Run, faces: Iterable[Face], others: Sequence[Extra]
) -> dict[int, tuple[set[Person], dict[str, Any]]]:
    """Split the people of `faces` for each fold to be trained: who takes part, and the split."""
    everybody = {face.person for face in faces}
    splits = {}
    for fold in run.fold_files(recipe):
        people, split = make_split(everybody, folds=run.folds, fold=fold, limit=run.limit)
        split |= {"extra": [extra.hash for extra in others]} if others else {}
        warn(missing_strata(people, split["held_out"]))
        splits[fold] = people, split
    return splits


def refuse_seen(file: Path, faces: Sequence[Face], splits: Iterable[Mapping[str, Any]]) -> None:
    """Refuse weights whose training used people who are held out in one of `splits`.

    Weights that come from another table may start any fold.

    Raises:
        UserError: the training of `file` used some of them.
    """
    theirs = weights_card(file).get("split")
    if theirs and table_hash(faces) in theirs.get("extra", ()):
        raise UserError(
            f"--weights {file}: its training saw everyone of this table, as --extra, which would "
            "flatter the score"
        )
    learned = learned_from(theirs, {face.person for face in faces}) if theirs else set()
    for split in splits:
        seen = learned.intersection(split["held_out"])
        if seen:
            limit = f"--limit {theirs['limit']}" if theirs["limit"] else "no --limit"
            raise UserError(
                f"--weights {file}: its training saw {len(seen):,} of the "
                f"{len(split['held_out']):,} people that fold {split['fold']} holds out, which "
                f"would flatter the score; --folds {theirs['folds']} --fold {theirs['fold']}, "
                f"{limit}, holds out those that it never saw"
            )


def shared_photos(faces: Mapping[Path, Face], crops: Mapping[Path, Path]) -> str:
    """Warn of photos whose bytes several people have, who may be one: on both sides of the split."""
    owners: dict[str, dict[str, Face]] = defaultdict(dict)
    for path, crop in crops.items():
        owners[photo_key(crop)].setdefault(faces[path].person.human, faces[path])
    same = [list(people.values()) for people in owners.values() if len(people) > 1]
    if not same:
        return ""
    first = " and ".join(f"{face.person.key}/{face.path.name}" for face in same[0][:2])
    return (
        f"{counted(len(same), 'photo')} under several people, such as {first}: they may be one "
        "person on both sides of the split (python -m common.tools.audit lists them)"
    )


def refuse_learned(file: Path, folds: Mapping[int, Fold], crops: Mapping[Path, Path]) -> None:
    """Check that the weights, and those they came from, learned from no photo of a held-out person.

    Unlike `refuse_seen` this also finds them in another table, and through any number of --weights.

    Raises:
        UserError: they did.
    """
    seen = learned(weights_card(file))
    for fold in folds.values():
        faces = [e.face for e in fold.examples if e.held_out and e.face.path in crops]
        keys = {f.person.key for f in faces if short(photo_key(crops[f.path])) in seen}
        if keys:
            raise UserError(
                f"--weights {file}: it, or the weights it was started from, learned from photos of "
                f"{len(keys):,} of the {len(fold.split['held_out']):,} people that fold "
                f"{fold.split['fold']} holds out, which would flatter the score:\n"
                f"{listed(sorted(keys))}"
            )


def crop_faces(recipe: Recipe, run: Run, paths: list[Path]) -> Mapping[Path, Path]:
    """Crop photos; returns each one's crop file, without the photos that can't be used.

    The processes of a machine share the work, and then find each other's crops in the cache.
    """
    spec = checkpoint.crop_spec(recipe)
    check_detector(spec.used_detector)
    if processes() > 1:
        part = paths[local_rank() :: local_processes()]
        prepare_crops(part, spec, run.cache_dir, workers=run.workers, allow_bad=len(part))
        barrier()
    prepared = prepare_crops(
        paths, spec, run.cache_dir, workers=run.workers, allow_bad=run.allow_bad
    )
    report_crops(prepared, detected=spec.needs_face)
    pairs = zip(paths, prepared.files, strict=True)
    return {path: file for path, file in pairs if file is not None}


def report_crops(prepared: Prepared, *, detected: bool) -> None:
    """Print how many faces were detected, if they were to be, and the photos left out."""
    print(prepared.summary(detected))
    for path, reason in prepared.bad:
        print(printable(f"left out: {path}: {reason}"), file=sys.stderr)
