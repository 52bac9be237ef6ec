"""A whole training in this process: what it learns from, saves, survives and resumes."""

import csv
import dataclasses
import json
import math
import os
import re
import shlex
import shutil
import signal
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from torch import nn

from age.recipe import AgeRecipe
from common.base.errors import UserError
from common.base.files import held_folder
from common.data.layout import read_faces
from common.data.learned import learned
from common.data.split import assign_folds, make_split
from common.model import checkpoint
from common.model.recipe import Recipe
from common.training import learner
from common.training.command import parse
from common.training.engine import RunningLoss, StopFlag
from common.training.examples import Data, Example
from gender.recipe import GenderRecipe
from mask.recipe import MaskRecipe
from tests.tiny import differences, interrupted, last, settings, train_tiny


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums differ in the last bit with the number of threads, which follows from the workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("common.model.device.available_cores", lambda: 1)
        yield


def table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


def test_a_run_leaves_a_checkpoint_and_a_log(data, tmp_path):
    status, printed = train_tiny(MaskRecipe, data, tmp_path, "--epochs 2 --lr 3e-3")
    assert status == 0
    (folder,) = (tmp_path / "runs" / "mask").iterdir()
    rows = table(folder)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert json.loads((folder / "recipe.json").read_text())["recipe"]["lr"] == 3e-3
    assert any(folder.glob("events.out.tfevents.*"))
    card = checkpoint.read(tmp_path / "m.pt")["card"]
    best = max(float(row["val_macro_f1"]) for row in rows)
    assert card["metrics"]["macro_f1"] == pytest.approx(best)
    assert card["metrics"]["photos"] == 4 * 7
    score, following = printed.splitlines()[-2:]
    assert f"macro F1 {best:.4f}" in score and str(tmp_path / "m.pt") in score
    assert following.startswith(f"next: python combine.py --mask {tmp_path / 'm.pt'}")
    assert "84 photos: " in printed
    (line,) = (line for line in printed.splitlines() if line.startswith("time: "))
    for stage in ("crop", "waiting for photos", "training steps", "validation", "saving"):
        assert re.search(rf" {stage} \d+\.\d (s|min)", line)
    assert "no class weights" in printed


def test_validation_keeps_what_training_drops(data, tmp_path, monkeypatch):
    """Dropped and relabelled ages change training alone: validation stays official and whole."""
    seen: dict[str, Any] = {}

    def noted(recipe: Recipe, examples: list[Example], crops: dict[Path, Path]) -> Data:
        seen.update(examples=examples, data=original(recipe, examples, crops))
        return seen["data"]

    original = learner.datasets
    monkeypatch.setattr(learner, "datasets", noted)
    folds = assign_folds({face.person for face in read_faces(data)}, 6)
    middle = sorted(
        {f.age for f in read_faces(data) if 30 <= f.age < 60 and folds[f.person.key] != 0}
    )
    dropped, old_from = middle[0], middle[-1]
    line = f"--loss focal --drop-ages {dropped} --old-from {old_from} --folds 6 --epochs 1"
    _, printed = train_tiny(AgeRecipe, data, tmp_path, line)
    training, validation = seen["data"].training, seen["data"].validation
    held = [example.face for example in seen["examples"] if example.held_out]
    others = [example.face for example in seen["examples"] if not example.held_out]
    assert validation.labels == [(f.age >= 30) + (f.age >= 60) for f in held]
    kept = [f for f in others if f.age != dropped]
    classes = [label for label, _ in training.labels]  # beside the year of the auxiliary head
    assert classes == [(f.age >= 30) + (f.age >= old_from) for f in kept]
    relabelled = sum(old_from <= f.age < 60 for f in kept)
    assert relabelled and f"relabelled for training: {relabelled} photos\n" in printed
    assert f"left out of training: {len(others) - len(kept)} photos" in printed


def test_all_tasks_hold_out_the_same_people(data, tmp_path):
    train_tiny(GenderRecipe, data, tmp_path, "--epochs 1 --crop center --seed 5")
    train_tiny(AgeRecipe, data, tmp_path, "--epochs 1 --drop-ages 57-59 --size 64")
    splits = [checkpoint.read(tmp_path / name)["card"]["split"] for name in ("g.pt", "a.pt")]
    assert splits[0] == splits[1]
    assert len(splits[0]["held_out"]) == 4


LINE = "--epochs 2 --lr 1e-3 --drop 0.3 --sched cosine --warmup-epochs 0.5"
# Mixup's second loss is a call of its own: a batch may call once or twice.
EVERYTHING = (
    f"{LINE} --cycle-epochs 1 --mixup 0.4 --cutmix 1 --grad-accum-steps 2 --model-ema-decay 0.9 "
    "--sampler class --aug own light autoaugment --reprob 0.3 --opt madgrad "
    "--aux years,gender"
)


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory) -> dict[str, dict[str, Any]]:
    found = {}
    for line in (LINE, EVERYTHING):
        folder = tmp_path_factory.mktemp("whole")
        train_tiny(MaskRecipe, data, folder, line)
        found[line] = last(folder)
    return found


@pytest.mark.parametrize(
    ("line", "call", "number", "workers"),
    [
        (LINE, 1, signal.SIGINT, 0),
        (LINE, 2, signal.SIGTERM, 2),
        (LINE, 4, signal.SIGINT, 0),
        (LINE, 6, signal.SIGINT, 2),
        (EVERYTHING, 1, signal.SIGINT, 2),
        (EVERYTHING, 3, signal.SIGTERM, 0),
        (EVERYTHING, 9, signal.SIGINT, 0),
    ],
)
def test_resume_is_exact(data, tmp_path, uninterrupted, line, call, number, workers):
    """Stopped in an epoch or at its end, by either signal: the rest is as if nothing happened."""
    status, printed = train_tiny(
        interrupted(call, number), data, tmp_path, f"{line} --workers {workers}"
    )
    assert status == 128 + number
    assert "--resume" in printed
    if line == LINE:
        assert last(tmp_path)["training"]["updates"] == call
    status, printed = train_tiny(MaskRecipe, data, tmp_path, f"--resume --workers {2 - workers}")
    assert status == 0
    assert not differences(last(tmp_path), uninterrupted[line])
    (folder,) = (tmp_path / "runs" / "mask").iterdir()
    rows = table(folder)
    assert [row["epoch"] for row in rows] == ["1", "2"]


def test_resume_writes_the_best_epoch_to_wherever_it_goes_now(data, tmp_path):
    train_tiny(interrupted(5, signal.SIGINT), data, tmp_path, LINE)
    best = checkpoint.read(tmp_path / "m.pt")["card"]["metrics"]
    (tmp_path / "m.pt").unlink()
    train_tiny(interrupted(1, signal.SIGINT), data, tmp_path, f"--resume --out {tmp_path / 'n.pt'}")
    assert checkpoint.read(tmp_path / "n.pt")["card"]["metrics"] == best


def test_a_changed_bit_of_the_optimizer_is_noticed(data, tmp_path):
    train_tiny(MaskRecipe, data, tmp_path, "--epochs 1")
    (file,) = (tmp_path / "runs" / "mask").glob("*/last.pt")
    whole = bytearray(file.read_bytes())
    state = checkpoint.read(file)["training"]["optimizer"]["state"]
    flat = (entry["exp_avg"] for entry in state.values() if entry["exp_avg"].dim() == 1)
    moments = next(flat).numpy().tobytes()
    whole[whole.index(moments) + 2] ^= 1
    file.write_bytes(whole)
    with pytest.raises(UserError, match="digest doesn't match"):
        checkpoint.read(file)


def test_resume_goes_on_with_the_newest_whole_file(data, tmp_path, capsys):
    for _ in range(2):
        train_tiny(MaskRecipe, data, tmp_path, "--epochs 1")
    older, newer = sorted(
        (tmp_path / "runs" / "mask").glob("*/last.pt"), key=lambda file: file.stat().st_mtime
    )
    newer.write_bytes(newer.read_bytes()[:-100])
    status, printed = train_tiny(MaskRecipe, data, tmp_path, "--resume")
    assert status == 0 and f"nothing left to train: {older}" in printed
    warning = capsys.readouterr().err
    assert str(newer) in warning and f"going on with {older}" in warning
    with pytest.raises(UserError, match=f"^{newer}: "):  # named, it is never passed over
        train_tiny(MaskRecipe, data, tmp_path, f"--resume {newer}")
    older.write_bytes(b"")
    with pytest.raises(UserError, match="no whole file of a mask training") as error:
        train_tiny(MaskRecipe, data, tmp_path, "--resume")
    assert str(older) in str(error.value) and str(newer) in str(error.value)


def test_resume_refuses_another_recipe_file_or_data(data, tmp_path):
    train_tiny(MaskRecipe, data, tmp_path, "--epochs 1")
    for line, words in (
        ("--resume --lr 0.5", "--lr is 0.5 here"),
        (f"--resume {tmp_path / 'gone.pt'}", "no such checkpoint"),
        (f"--resume {tmp_path / 'm.pt'}", "a finished model"),
    ):
        with pytest.raises(UserError, match=words):
            settings(MaskRecipe, data, tmp_path, line)
    with pytest.raises(UserError, match="no gender training"):
        settings(GenderRecipe, data, tmp_path, "--resume")
    with pytest.raises(UserError, match="split otherwise since"):
        train_tiny(MaskRecipe, data, tmp_path, "--resume --limit 9")


def test_weights_trained_on_held_out_people_are_refused(data, faces, tmp_path):
    """By fold, by number of folds and by limit; another task's of the same fold may start one."""
    train_tiny(MaskRecipe, data, tmp_path, "--epochs 1 --fold 1")
    weights = f"--epochs 1 --weights {tmp_path / 'm.pt'}"
    people = {face.person for face in faces}
    held = {
        limit: set(make_split(people, folds=3, fold=1, limit=limit)[1]["held_out"])
        for limit in (None, *range(6, 12))
    }
    limit = next(limit for limit in held if held[limit] - held[None])
    for line in ("--fold 0", "--fold all", "--fold 1 --folds 4", f"--fold 1 --limit {limit}"):
        with pytest.raises(UserError, match=r"which would flatter.*--folds 3 --fold 1, no --limit"):
            train_tiny(GenderRecipe, data, tmp_path, f"{weights} {line}")
    status, printed = train_tiny(GenderRecipe, data, tmp_path, f"{weights} --fold 1")
    assert status == 0 and "m.pt (mask, macro F1 0." in printed
    assert "fold 1 of 3 held out), not classifier.bias, classifier.weight" in printed


class NotFinite(MaskRecipe):
    def criterion(self, counts: Any) -> nn.Module:
        class Loss(nn.Module):
            steps = 0

            def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
                self.steps += 1
                return logits.sum() * (float("nan") if self.steps > 4 else 1e-3)

        return Loss()


def test_a_loss_that_is_not_finite_stops_before_the_update(data, tmp_path):
    with pytest.raises(UserError, match="loss is nan in epoch 2, step 1"):
        train_tiny(NotFinite, data, tmp_path, "--epochs 3")
    for file in (tmp_path / "m.pt", *(tmp_path / "runs" / "mask").glob("*/last.pt")):
        tensors = checkpoint.read(file)["state_dict"].values()
        assert all(torch.isfinite(tensor).all() for tensor in tensors)
    assert last(tmp_path)["training"]["updates"] == 4
    assert list(tmp_path.glob("runs/mask/*/curves.png"))  # now they are wanted


NO_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory"
    ),
    MemoryError(),
)


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda error: type(error).__name__)
def test_a_lack_of_memory_names_a_smaller_batch(data, tmp_path, error):
    class Recipe(MaskRecipe):
        def criterion(self, counts: Any) -> nn.Module:
            loss = nn.CrossEntropyLoss()
            loss.register_forward_pre_hook(lambda *_: raises(error))
            return loss

    with pytest.raises(UserError, match=r"--batch-size 16: .* --batch-size 8 --grad-accum-steps 2"):
        train_tiny(Recipe, data, tmp_path, "--epochs 1")


def raises(error: Exception) -> None:
    raise error


class Exploding(MaskRecipe):
    """A finite loss whose update leaves no finite weights."""

    def criterion(self, counts: Any) -> nn.Module:
        class Loss(nn.CrossEntropyLoss):
            def forward(self, *batch: torch.Tensor) -> torch.Tensor:
                loss = super().forward(*batch)
                loss.register_hook(lambda gradient: gradient * float("inf"))
                return loss

        return Loss()


def test_a_model_without_finite_logits_is_never_best(data, tmp_path):
    with pytest.raises(UserError, match="loss is nan|gives no numbers"):
        train_tiny(Exploding, data, tmp_path, "--epochs 1 --batch-size 64")
    assert not (tmp_path / "m.pt").exists()


def test_a_place_that_cannot_be_written_is_reported_before_the_work(data, tmp_path):
    (tmp_path / "file").write_text("")
    for line in (
        f"--out {tmp_path / 'file' / 'm.pt'}",
        f"--out {tmp_path}",
        f"--log-dir {tmp_path / 'file'}",
    ):
        with pytest.raises(UserError, match=r"written|a folder|can't be created"):
            train_tiny(MaskRecipe, data, tmp_path, line)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--model no_such_net", "has no such model"),
        ("--opt no_such_opt", "--opt no_such_opt"),
        ("--device cuda:9", "device cuda:9 is not available on this machine"),
        ("--folds 13", "12 people can't be split into 13 folds"),
        ("--torchcompile no_such", "--torchcompile no_such: doesn't work here"),
        ("--drop-ages 0-29", "no training photo of class <30"),
    ],
)
def test_a_setting_that_cannot_work_is_named(data, tmp_path, line, words):
    with pytest.raises(UserError, match=words):
        train_tiny(AgeRecipe, data, tmp_path, line)


def test_the_signal_handlers_are_put_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with StopFlag() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGTERM)  # a scheduler's second one, to the group
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))


def test_the_schedule_moves_with_every_step(data, tmp_path):
    train_tiny(MaskRecipe, data, tmp_path, "--epochs 2 --lr 1e-2 --sched cosine")
    rows = table(next((tmp_path / "runs" / "mask").iterdir()))
    first, second = (float(row["lr"]) for row in rows)  # at the end of each epoch
    assert first == pytest.approx(0.5e-2)
    assert second == pytest.approx(0, abs=1e-6)
    assert last(tmp_path)["training"]["optimizer"]["param_groups"][0]["lr"] < 1e-6


def test_same_seed_same_weights_another_seed_others(data, tmp_path):
    states = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        train_tiny(MaskRecipe, data, tmp_path / name, f"--epochs 1 --seed {seed}")
        states.append(last(tmp_path / name)["state_dict"])
    key = next(iter(states[0]))
    assert torch.equal(states[0][key], states[1][key])
    assert not torch.equal(states[0][key], states[2][key])


def test_recipes_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        MaskRecipe().lr = 1.0


def test_a_compiled_network_learns_and_is_saved_like_any_other(data, tmp_path):
    """By a backend that counts the graphs it is given and runs them as they are."""
    graphs = []

    @torch._dynamo.register_backend(name="counted")
    def counted(graph: torch.fx.GraphModule, _: list) -> Any:
        graphs.append(graph)
        return graph.forward

    states = []
    for name, words in (("usual", ""), ("compiled", "--torchcompile counted")):
        (tmp_path / name).mkdir()
        line = f"--epochs 1 --model-ema-decay 0.9 {words}"
        assert train_tiny(MaskRecipe, data, tmp_path / name, line)[0] == 0
        states.append(last(tmp_path / name))
    assert len(graphs) > 1  # the first is the trial before the cropping
    usual, compiled = ({**s["state_dict"], "ema": s["training"]["ema"]} for s in states)
    assert compiled.keys() == usual.keys() and compiled["ema"].keys() == usual["ema"].keys()
    assert all(torch.equal(t, compiled[k]) for k, t in usual.items() if k != "ema")


@pytest.mark.parametrize("every", [1, 3, 20])
def test_losses_are_read_now_and_then(every: int) -> None:
    """On a GPU a reading waits for its work; the sum is that of reading each step."""
    losses = RunningLoss(state := types.SimpleNamespace(loss_sum=0.0, own_sum=0.0, photos=0), every)
    for photos, loss in ((4, 0.5), (4, 1.5), (2, 2.0), (4, 0.25)):
        losses.add(torch.tensor((loss + 8, loss)), photos)  # with the heads', and the task's own
    losses.read()
    assert state.own_sum == 4 * 0.5 + 4 * 1.5 + 2 * 2.0 + 4 * 0.25
    assert state.loss_sum == state.own_sum + 14 * 8
    assert losses.mean() == state.own_sum / 14


@pytest.mark.parametrize("every", [1, 3])
def test_a_loss_that_is_not_finite_ends_the_training_when_it_is_read(every: int) -> None:
    optimizer = types.SimpleNamespace(param_groups=[{"lr": 0.1}])
    state = types.SimpleNamespace(
        loss_sum=0.0, own_sum=0.0, photos=0, epoch=0, step=0, optimizer=optimizer
    )
    losses = RunningLoss(state, every)
    for loss in [math.nan, 1.0][: every - 1]:  # not read yet
        losses.add(torch.tensor((loss, loss)), 4)
    with pytest.raises(UserError, match="the loss is nan"):
        losses.add(torch.tensor((math.nan, math.nan)), 4)


def mask_runs(folder: Path) -> Path:
    """The folder of the one mask training below `folder`."""
    (run,) = (folder / "runs" / "mask").iterdir()
    return run


@pytest.mark.parametrize("name", ["epoch1.pt", "copy_of_last.pt", "best.pt"])
def test_resume_refuses_a_file_that_it_would_not_go_on_with(data, tmp_path, name):
    train_tiny(MaskRecipe, data, tmp_path, "--epochs 1")
    run = mask_runs(tmp_path)
    before = (run / "last.pt").read_bytes()
    (run / name).write_bytes(before)
    with pytest.raises(UserError, match=r"goes on from the last\.pt in its folder"):
        train_tiny(MaskRecipe, data, tmp_path, f"--resume {shlex.quote(str(run / name))}")
    assert (run / "last.pt").read_bytes() == before


def test_resume_needs_the_best_epoch_beside_the_last(data, tmp_path):
    train_tiny(MaskRecipe, data, tmp_path, "--epochs 1")
    (tmp_path / "backup").mkdir()
    shutil.copy(mask_runs(tmp_path) / "last.pt", tmp_path / "backup")
    with pytest.raises(UserError, match=r"the run's best\.pt, its best epoch so far, isn't beside"):
        train_tiny(MaskRecipe, data, tmp_path, f"--resume {tmp_path / 'backup' / 'last.pt'}")


def test_a_file_from_elsewhere_does_not_decide_where_to_write(data, tmp_path):
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    train_tiny(interrupted(5, signal.SIGINT), data, theirs, "--epochs 2")
    victim = theirs / "m.pt"
    before = victim.read_bytes()
    shutil.copytree(mask_runs(theirs), ours / "downloaded")
    line = f"--data {data} --log-dir {ours / 'runs'} --resume {ours / 'downloaded' / 'last.pt'}"
    with pytest.raises(
        UserError, match=r"lies outside of --log-dir .*--out .*m\.pt: give these flags"
    ):
        parse(MaskRecipe, line.split())
    assert victim.read_bytes() == before
    agreed = f"--out {ours / 'm.pt'} --log-dir {theirs / 'runs'}"
    _, run = parse(MaskRecipe, [*line.split(), *agreed.split()])
    assert (run.out, run.log_dir) == (ours / "m.pt", theirs / "runs")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("pixels", r"the photos in .* changed since \(84 photos then, 84 now\)"),
        ("a photo less", r"the photos and labels in .* changed since \(84 photos then, 83 now\)"),
        ("names", "the photos in .* changed since"),
        ("an age", "the labels in .* changed since"),
    ],
)
def test_resume_notices_that_photos_or_labels_changed(data, tmp_path, change, words):
    shutil.copytree(data, tmp_path / "data")
    recipe = AgeRecipe if change == "an age" else MaskRecipe
    train_tiny(recipe, tmp_path / "data", tmp_path, "--epochs 1")
    person = sorted((tmp_path / "data" / "train" / "images").iterdir())[0]
    photo, other = person / "mask1.jpg", person / "normal.jpg"
    if change == "pixels":
        photo.write_bytes(other.read_bytes())
    elif change == "a photo less":
        photo.unlink()
    elif change == "names":
        contents = photo.read_bytes(), other.read_bytes()
        other.write_bytes(contents[0])
        photo.write_bytes(contents[1])
    else:
        table = tmp_path / "data" / "train" / "train.csv"
        rows = [row.split(",") for row in table.read_text().splitlines()]
        rows[1][3] = str(int(rows[1][3]) + 1)
        table.write_text("\n".join(",".join(row) for row in rows) + "\n")
    with pytest.raises(UserError, match=words):
        train_tiny(recipe, tmp_path / "data", tmp_path, "--resume")


def test_a_run_has_the_name_that_it_is_given(data, tmp_path):
    train_tiny(MaskRecipe, data, tmp_path, "--epochs 1 --exp-name first")
    assert mask_runs(tmp_path).name == "first"
    before = (mask_runs(tmp_path) / "last.pt").read_bytes()
    with pytest.raises(UserError, match=r"--exp-name first: .*first exists; --resume .*last\.pt"):
        train_tiny(MaskRecipe, data, tmp_path, "--epochs 1 --exp-name first")
    assert (mask_runs(tmp_path) / "last.pt").read_bytes() == before
    for name in ("../up", ".hidden", "a/b", "-x"):
        with pytest.raises(SystemExit):
            settings(MaskRecipe, data, tmp_path, f"--exp-name={name}")


def test_a_photo_under_two_people_is_a_warning(data, tmp_path, capsys):
    shutil.copytree(data, tmp_path / "data")
    one, other = sorted((tmp_path / "data" / "train" / "images").iterdir())[:2]
    (other / "mask1.jpg").write_bytes((one / "normal.jpg").read_bytes())
    train_tiny(MaskRecipe, tmp_path / "data", tmp_path, "--epochs 1")
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "under several people" in x]
    assert "warning: 1 photo under several people, such as" in line
    assert f"{one.name}/normal.jpg" in line and f"{other.name}/mask1.jpg" in line


def test_two_processes_do_not_go_on_with_one_run(data, tmp_path):
    train_tiny(MaskRecipe, data, tmp_path, "--epochs 1")
    with (
        held_folder(mask_runs(tmp_path)),
        pytest.raises(UserError, match="another process is training in it"),
    ):
        train_tiny(MaskRecipe, data, tmp_path, "--resume")
    assert train_tiny(MaskRecipe, data, tmp_path, "--resume")[0] == 0


def relabelled(data: Path, folder: Path, change: str) -> Path:
    """A copy of `data` whose table or folders differ, while the photos are the same."""
    shutil.copytree(data, folder)
    table = folder / "train" / "train.csv"
    rows = [row.split(",") for row in table.read_text().splitlines()]
    if change == "an age":
        rows[1][3] = str(int(rows[1][3]) + 1)
    elif change == "a row less":
        rows.pop()
    else:
        for row in rows[1:]:
            (folder / "train" / "images" / row[4]).rename(
                folder / "train" / "images" / f"x{row[0]}"
            )
            row[4] = f"x{row[0]}"
    table.write_text("\n".join(",".join(row) for row in rows) + "\n")
    return folder


@pytest.mark.parametrize("change", ["an age", "a row less", "folders"])
def test_no_table_hides_who_the_weights_learned_from(data, tmp_path, change):
    """By the photos' content, whatever the table says, and through another training's weights."""
    train_tiny(MaskRecipe, data, tmp_path, "--epochs 1 --fold 1")
    other = relabelled(data, tmp_path / "other", change)
    weights = f"--epochs 1 --fold 0 --weights {tmp_path / 'm.pt'}"
    with pytest.raises(UserError, match=r"\d+ of the \d+ people that fold 0 holds out, which"):
        train_tiny(GenderRecipe, other, tmp_path, weights)


def test_weights_of_weights_remember_whom_they_learned_from(data, tmp_path):
    """Two hops: the training in between held the same people out, in a table of its own."""
    train_tiny(MaskRecipe, data, tmp_path, "--epochs 1 --fold 1")
    few = tmp_path / "few"
    shutil.copytree(data, few)
    for person in (few / "train" / "images").iterdir():
        for photo in person.iterdir():
            image = cv2.imread(str(photo))
            cv2.imwrite(str(photo), image[:, ::-1])  # other photos
    between = f"--epochs 1 --weights {tmp_path / 'm.pt'} --fold 0"
    with pytest.raises(UserError, match="would flatter"):  # the tables are equal, by their people
        train_tiny(GenderRecipe, few, tmp_path, between)
    relabelled(few, tmp_path / "between", "folders")
    assert train_tiny(GenderRecipe, tmp_path / "between", tmp_path, between)[0] == 0
    seen = learned(checkpoint.read(tmp_path / "g.pt")["card"])
    assert seen > learned(checkpoint.read(tmp_path / "m.pt")["card"])
    with pytest.raises(UserError, match="or the weights it was started from, learned from photos"):
        train_tiny(
            AgeRecipe,
            relabelled(data, tmp_path / "last", "folders"),
            tmp_path,
            f"--epochs 1 --fold 0 --weights {tmp_path / 'g.pt'}",
        )
