"""Every loss, optimizer, schedule, sampler, augmentation and preset trains, and does what it is for."""

import contextlib
import csv
import io
import math
from collections import Counter
from pathlib import Path

import pytest
import torch

from age.recipe import AgeRecipe
from common.model import checkpoint
from common.model.loaded import load
from common.model.recipe import AUGMENTATIONS, LOSSES, SCHEDULES
from common.training.optimization import make_optimizer, make_scheduler
from common.training.prepare import prepare
from gender.recipe import GenderRecipe
from mask.recipe import MaskRecipe
from tests.benchmarks.baselines import HeadsRecipe, SingleRecipe, YearsRecipe
from tests.tiny import last, settings, train_tiny


def table(folder: Path, task: str) -> list[dict[str, str]]:
    (file,) = (folder / "runs" / task).glob("*/metrics.csv")
    return list(csv.DictReader(file.read_text().splitlines()))


LINES = [
    *(f"--loss {loss}" for loss in (*LOSSES, "dldl")),
    *(f"--opt {opt}" for opt in ("sgd", "momentum", "adam", "adamw", "madgrad", "lamb")),
    *(f"--sampler {sampler}" for sampler in ("person", "class", "class-gender")),
    *(f"--aug {name}" for name in AUGMENTATIONS),
    "--aug jitter equalize light --reprob 0.5",
    "--mixup 0.2",
    "--mixup 0.2 --cutmix 1 --mix-within-class --loss dldl",
    "--cutmix 1 --loss focal --sampler class",
    "--rare-crops 3 --drop-ages 52-54",  # one person of the middle at most
    "--rare-crops 3 --sampler person",
    "--crop center --center 350",
    "--crop none --mean none --std none",
    "--crop eyes --background grabcut",
    "--background grabcut",
    "--size 64x48 --crop center --center 412x244",
    "--grad-accum-steps 2 --clip-grad 1",
    "--model resnet18 --drop 0.3 --stem-stride 1",
]


@pytest.mark.parametrize("line", LINES)
def test_every_value_trains(data, tmp_path, line):
    status, printed = train_tiny(AgeRecipe, data, tmp_path, f"{line} --lr 1e-3 --epochs 1")
    assert status == 0
    (row,) = table(tmp_path, "age")
    assert math.isfinite(float(row["train_loss"]))
    card = checkpoint.read(tmp_path / "a.pt")["card"]
    assert card["metrics"]["photos"] == 4 * 7
    assert "loss: " in printed


@pytest.mark.parametrize("recipe", [MaskRecipe, GenderRecipe, AgeRecipe])
@pytest.mark.parametrize("name", ["s0", "s1", "s2", "s3", "s4"])
def test_every_preset_trains(data, tmp_path, recipe, name):
    """All of a source's values but the backbone, the size and the weights, which are a GPU's."""
    line = f"--preset {name} --epochs 1 --center 300"
    status, printed = train_tiny(recipe, data, tmp_path, line)
    assert status == 0
    fields = checkpoint.read(tmp_path / f"{recipe.task[0]}.pt")["card"]["recipe"]
    assert fields["loss"] == recipe.presets[name].get("loss", recipe().loss)
    assert f"--preset {name} is " in printed
    if name == "s1":
        assert "--sched step" in " ".join(printed.split())


@pytest.mark.parametrize("recipe", [SingleRecipe, HeadsRecipe, YearsRecipe])
def test_the_sources_single_nets_answer_with_codes(data, tmp_path, recipe):
    status, printed = train_tiny(recipe, data, tmp_path, "--epochs 1 --folds 2")
    assert status == 0
    metrics = checkpoint.read(tmp_path / f"{recipe.task[0]}.pt")["card"]["metrics"]
    assert len(metrics["confusion"]) == 18
    logits = torch.randn(5, recipe().outputs)
    shares = recipe().probabilities(logits)
    assert shares.shape == (5, 18)
    assert torch.allclose(shares.sum(dim=1), torch.ones(5))
    if recipe is HeadsRecipe:
        mask, gender, age = (part.softmax(dim=1) for part in logits.split((3, 2, 3), dim=1))
        assert torch.allclose(shares[:, 2 * 6 + 1 * 3 + 0], mask[:, 2] * gender[:, 1] * age[:, 0])


def rates(line: str, steps: int = 10) -> list[float]:
    """The learning rate before each step, in units of --lr, `steps` to an epoch."""
    recipe, _ = settings(MaskRecipe, Path("data"), Path("."), f"--lr 1 {line}")
    model = torch.nn.Linear(1, 1)
    optimizer = make_optimizer(recipe, model)
    scheduler = make_scheduler(recipe, optimizer, steps)
    found = []
    for update in range(recipe.epochs * steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if scheduler is not None:
            scheduler.step_update(update + 1)
    return found


def test_schedules_count_in_steps_and_do_what_they_are_named_for():
    assert set(rates("--sched none --epochs 3")) == {1.0}
    assert set(rates("--sched constant --epochs 3")) == {1.0}
    cosine = rates("--sched cosine --epochs 4")
    assert cosine[20] == pytest.approx(0.5)
    assert cosine[0] == 1 and cosine[-1] < 0.01
    step = rates("--sched step --decay-epochs 3 --decay-rate 0.5 --epochs 7")
    assert [step[i] for i in (0, 29, 30, 59, 60)] == [1, 1, 0.5, 0.5, 0.25]
    several = rates("--sched multistep --decay-milestones 1 4 --decay-rate 0.1 --epochs 5")
    assert [several[i] for i in (8, 10, 38, 40)] == pytest.approx([1, 0.1, 0.1, 0.01])
    warm = rates("--sched constant --warmup-epochs 2 --epochs 4")
    assert warm[0] == pytest.approx(0.01) and warm[10] == pytest.approx(0.505)
    assert set(warm[20:]) == {1.0}
    assert min(rates("--sched cosine --min-lr 0.2 --epochs 2")) >= 0.2


def test_warm_restarts_begin_each_cycle_at_full_height():
    restarts = rates("--sched cosine --cycle-epochs 5 --epochs 12")
    assert [i for i, rate in enumerate(restarts) if rate == 1] == [0, 50, 100]
    assert restarts[49] < 0.01 and restarts[75] > restarts[99 // 1] > 0
    assert restarts[25] == pytest.approx(restarts[75]) == pytest.approx(0.5)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_can_be_had(name):
    extra = {
        "step": "--decay-epochs 2",
        "multistep": "--decay-milestones 2",
        "rsqrt": "--warmup-epochs 1",
    }.get(name, "")
    found = rates(f"--sched {name} {extra} --epochs 4")
    assert max(found) <= 1
    assert (len(set(found)) == 1) == (name in ("none", "constant"))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("sgd", "SGD"), ("adam", "Adam"), ("adamw", "AdamW"), ("madgrad", "MADGRAD")],
)
def test_optimizers_are_what_they_are_called(name, kind):
    model = torch.nn.Linear(1, 1)
    optimizer = make_optimizer(AgeRecipe(opt=name, lr=0.5, weight_decay=3e-5), model)
    assert type(optimizer).__name__ == kind
    groups = optimizer.param_groups
    assert {group["lr"] for group in groups} == {0.5}
    assert max(group["weight_decay"] for group in groups) == 3e-5
    if name == "sgd":
        assert groups[0]["momentum"] == 0.9


def test_gradients_of_several_batches_make_one_step(data, tmp_path):
    """56 training photos: 14 batches of 4, 5 steps of 3 batches, the last of 2."""
    train_tiny(MaskRecipe, data, tmp_path, "--batch-size 4 --grad-accum-steps 3 --epochs 1")
    assert last(tmp_path, "mask")["training"]["updates"] == 5


def test_accumulated_gradients_are_those_of_the_whole_batch(data, tmp_path):
    """With a network in which photos don't meet: no batch normalisation."""
    states = []
    for name, line in (
        ("one", "--batch-size 56"),
        ("many", "--batch-size 14 --grad-accum-steps 4"),
    ):
        (tmp_path / name).mkdir()
        line += " --model test_vit --size 160 --opt sgd --lr 0.1 --drop 0 --aug none --epochs 1"
        train_tiny(MaskRecipe, data, tmp_path / name, line)
        states.append(last(tmp_path / name, "mask")["state_dict"])
    for key, tensor in states[0].items():
        assert torch.allclose(tensor, states[1][key], atol=1e-5), key


def test_the_moving_average_is_what_is_kept(data, tmp_path):
    train_tiny(MaskRecipe, data, tmp_path, "--aux --model-ema-decay 0.9 --epochs 1 --lr 1e-2")
    content = last(tmp_path, "mask")
    raw, average = content["state_dict"], content["training"]["ema"]
    names = [name for name, tensor in raw.items() if tensor.is_floating_point()]
    assert any(not torch.allclose(raw[n], average[f"backbone.{n}"]) for n in names)
    best = checkpoint.read(tmp_path / "m.pt")
    assert all(torch.equal(best["state_dict"][n], average[f"backbone.{n}"]) for n in names)


def test_patience_ends_what_does_not_improve(data, tmp_path):
    _, printed = train_tiny(
        MaskRecipe, data, tmp_path, "--opt sgd --lr 0 --patience 2 --epochs 9 --aug none"
    )
    first = checkpoint.read(tmp_path / "m.pt")["card"]["metrics"]["epoch"]
    assert len(table(tmp_path, "mask")) == first + 2 < 9
    assert "no better epoch in 2" in printed


def test_the_epoch_with_the_lowest_loss_is_kept(data, tmp_path):
    train_tiny(MaskRecipe, data, tmp_path, "--keep loss --epochs 4 --lr 3e-2")
    losses = [float(row["val_loss"]) for row in table(tmp_path, "mask")]
    metrics = checkpoint.read(tmp_path / "m.pt")["card"]["metrics"]
    assert metrics["epoch"] == losses.index(min(losses)) + 1
    assert metrics["loss"] == pytest.approx(min(losses))


def test_rare_classes_stand_several_times_in_an_epoch(data, tmp_path):
    """8 of 56 training photos are worn wrong and 8 show no mask: under half of a third each."""
    _, printed = train_tiny(MaskRecipe, data, tmp_path, "--rare-crops 3 --epochs 1 --batch-size 4")
    assert "3 times an epoch: incorrect, not_wear" in printed
    assert last(tmp_path, "mask")["training"]["updates"] == (40 + 3 * 16) / 4


def test_labels_are_read_before_the_first_step_only(data, tmp_path):
    """Epochs and their validation work on the examples that `prepare` made."""
    read: Counter[Path] = Counter()

    class Counting(GenderRecipe):
        def label(self, face):
            read[face.path] += 1
            return super().label(face)

    with contextlib.redirect_stdout(io.StringIO()):
        prepare(*settings(Counting, data, tmp_path / "prepared"))
    prepared = dict(read)
    read.clear()
    assert train_tiny(Counting, data, tmp_path / "trained", "--epochs 3")[0] == 0
    assert len(prepared) == 84 and dict(read) == prepared


def test_mean_and_std_reach_the_network(data, tmp_path):
    line = "--mean 0.5 0.25 0.75 --std none --epochs 1 --crop none"
    train_tiny(MaskRecipe, data, tmp_path, line)
    loaded = load(tmp_path / "m.pt", MaskRecipe)
    assert loaded.model.mean.flatten().tolist() == [127.5, 63.75, 191.25]
    assert loaded.model.std.flatten().tolist() == [255] * 3


def test_the_number_behind_age_groups_is_the_mean_of_the_years():
    """The ends of the interval leave a tenth on either side."""
    recipe = AgeRecipe(loss="dldl", bins="20-60")
    chances = torch.zeros(3, 41)
    chances[0, 5] = 1.0  # 25 for sure
    chances[1, [10, 30]] = torch.tensor([0.5, 0.5])  # 30 or 50
    chances[2, [0, 10, 40]] = torch.tensor([0.05, 0.9, 0.05])
    number = recipe.number(chances.clamp_min(1e-30).log(), 1.0)
    expected = [[25, 25, 25], [40, 30, 50], [31, 30, 30]]
    torch.testing.assert_close(number, torch.tensor(expected).float(), atol=1e-3, rtol=0)
    beside = AgeRecipe(loss="focal", bins="20-60")
    both = torch.cat([torch.randn(3, 3), chances.clamp_min(1e-30).log()], dim=1)
    torch.testing.assert_close(beside.number(both, 0.3), number)
    assert AgeRecipe(loss="focal").number(torch.zeros(2, 3), 1.0) is None
    assert MaskRecipe().number(torch.zeros(2, 3), 1.0) is None
