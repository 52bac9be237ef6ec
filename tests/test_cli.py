"""Flags become recipes: frozen names, defaults, presets, one-line errors."""

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from age.recipe import AgeRecipe
from common.base.command import guarded
from common.base.errors import UserError
from common.base.fields import plain
from common.base.quiet import quietly
from common.base.run_settings import Run
from common.data.layout import Face, Person
from common.model.recipe import Recipe
from common.training.command import build_parser, main, parse
from common.training.engine import StopFlag
from gender.recipe import GenderRecipe
from mask.recipe import MaskRecipe

RECIPES = (MaskRecipe, GenderRecipe, AgeRecipe)
FLAGS = [
    "--allow-bad",
    "--amp",
    "--aug",
    "--aux",
    "--aux-weight",
    "--background",
    "--batch-size",
    "--beta",
    "--cache-dir",
    "--center",
    "--clip-grad",
    "--config",
    "--crop",
    "--cutmix",
    "--cutmix-halves",
    "--cycle-decay",
    "--cycle-epochs",
    "--data",
    "--data-dir",
    "--decay-epochs",
    "--decay-milestones",
    "--decay-rate",
    "--detector",
    "--device",
    "--drop",
    "--epochs",
    "--f1-weight",
    "--exp-name",
    "--extra",
    "--fold",
    "--folds",
    "--gamma",
    "--grad-accum-steps",
    "--help",
    "--img-size",
    "--initial-checkpoint",
    "--keep",
    "--label-fixes",
    "--limit",
    "--log-dir",
    "--log-wandb",
    "--loss",
    "--lr",
    "--margin",
    "--mean",
    "--min-lr",
    "--mix-within-class",
    "--mixed",
    "--mixup",
    "--model",
    "--model-ema-decay",
    "--no-amp",
    "--no-mix-within-class",
    "--no-cutmix-halves",
    "--no-log-wandb",
    "--no-mixed",
    "--no-pretrained",
    "--opt",
    "--out",
    "--patience",
    "--preset",
    "--pretrained",
    "--pseudo",
    "--pseudo-images",
    "--randaugment-magnitude",
    "--rare-crops",
    "--reprob",
    "--resume",
    "--sampler",
    "--sched",
    "--seed",
    "--size",
    "--smoothing",
    "--std",
    "--stem-stride",
    "--threads",
    "--torchcompile",
    "--version",
    "--wandb-project",
    "--warmup-epochs",
    "--weight-decay",
    "--weights",
    "--workers",
]


@pytest.mark.parametrize("recipe", RECIPES)
def test_flags_are_frozen(recipe):
    """Flags of users can't vanish or be renamed unnoticed."""
    own = (
        ["--bins", "--drop-ages", "--group-weight", "--old-from", "--sigma"]
        if recipe is AgeRecipe
        else []
    )
    found = [o for a in build_parser(recipe)._actions for o in a.option_strings if o[1] == "-"]
    assert sorted(found) == sorted(FLAGS + own)


def test_defaults_fine_tune_a_small_net():
    mask, gender, age = (parse(recipe, [])[0] for recipe in RECIPES)
    assert [(r.model, r.opt, r.sched) for r in (mask, gender, age)] == [
        ("tf_efficientnet_lite0", "adamw", "cosine")
    ] * 3
    assert [r.size for r in (mask, gender, age)] == [(128, 128), (128, 128), (192, 192)]
    assert [r.lr for r in (mask, gender, age)] == [6e-4, 6e-4, 4e-4]
    assert [r.epochs for r in (mask, gender, age)] == [2, 5, 5]
    assert [r.loss for r in (mask, gender, age)] == ["cross_entropy", "cross_entropy", "dldl"]
    assert {(r.batch_size, r.seed, r.pretrained) for r in (mask, gender, age)} == {(32, 777, True)}


PRESETS = [
    # From the table of the sources' values: task, preset, fields.
    (
        MaskRecipe,
        "s0",
        {
            "loss": "cb_focal",
            "opt": "momentum",
            "lr": 1e-3,
            "weight_decay": 3e-5,
            "sched": "cosine",
            "cycle_epochs": 5,
            "epochs": 50,
            "batch_size": 32,
            "seed": 77,
            "mean": (0.560, 0.524, 0.501),
            "keep": "loss",
        },
    ),
    (
        GenderRecipe,
        "s1",
        {
            "loss": "ce+f1",
            "opt": "madgrad",
            "lr": 8e-5,
            "sched": "step",
            "decay_epochs": 3,
            "decay_rate": 0.5,
            "epochs": 18,
            "mean": ("none",),
            "crop": "none",
            "size": (512, 384),
            "aug": ("jitter", "equalize", "light"),
        },
    ),
    (AgeRecipe, "s1", {"old_from": 57}),
    (MaskRecipe, "s2", {"lr": 3e-4, "loss": "cross_entropy", "epochs": 10, "aug": ("own",)}),
    (AgeRecipe, "s2", {"lr": 1e-4, "loss": "focal", "gamma": 2.0, "epochs": 4, "old_from": 59}),
    (
        AgeRecipe,
        "s3",
        {
            "model": "resnet18",
            "center": (350, 350),
            "loss": "focal",
            "lr": 8e-5,
            "aug": ("light",),
            "old_from": 55,
        },
    ),
    (
        MaskRecipe,
        "s4",
        {
            "loss": "cross_entropy",
            "size": (384, 288),
            "aug": ("autoaugment",),
            "model": "tf_efficientnetv2_m",
            "drop_ages": None,
        },
    ),
    (
        AgeRecipe,
        "s4",
        {
            "loss": "focal",
            "drop_ages": ((57, 59), (28, 29)),
            "sampler": "class",
            "opt": "adamw",
            "weight_decay": 5e-4,
            "sched": "cosine",
            "epochs": 30,
        },
    ),
]


@pytest.mark.parametrize(("recipe", "name", "fields"), PRESETS)
def test_a_preset_is_its_source(recipe, name, fields):
    chosen, _ = parse(recipe, ["--preset", name])
    assert {field: getattr(chosen, field, None) for field in fields} == fields


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_rest_of_a_preset_is_the_default_and_flags_win(recipe):
    for name, values in recipe.presets.items():
        chosen, run = parse(recipe, ["--preset", name, "--lr", "0.5", "--size", "64"])
        assert (chosen.lr, chosen.size) == (0.5, (64, 64))
        others = {f.name for f in dataclasses.fields(recipe)} - set(values) - {"lr", "size"}
        assert all(getattr(chosen, other) == getattr(recipe(), other) for other in others)
        assert run.folds == values.get("folds", 5)


def test_each_task_has_a_default_file_of_its_own():
    class Glasses(Recipe):
        task = "glasses"
        classes = ("none", "glasses")

    files = [Run().out_file(recipe) for recipe in (*RECIPES, Glasses)]
    assert files == [Path(name) for name in ("m.pt", "g.pt", "a.pt", "glasses.pt")]
    assert Run(out=Path("x.pt")).out_file(Glasses) == Path("x.pt")


def test_a_command_line_keeps_libraries_quiet_unless_the_user_asks(monkeypatch):
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")  # so that it is restored
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", "0")
    with quietly():
        assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
    assert "ORT_DISABLE_TELEMETRY" not in os.environ
    assert guarded(lambda: int(os.environ["ORT_DISABLE_TELEMETRY"])) == 1
    assert os.environ["NO_ALBUMENTATIONS_UPDATE"] == "0"


def test_verbatim_age_command():
    recipe, run = parse(AgeRecipe, ["--loss", "focal", "--drop-ages", "57-59"])
    assert recipe.drop_ages == ((57, 59),)
    assert run.data_dir() == Path("data")
    assert run.out_file(AgeRecipe) == Path("a.pt")


def test_values_reach_the_recipe():
    line = "--size 96x64 --no-pretrained --clip-grad 1 --drop-ages 57-59 28 --old-from 58 --fold 1"
    recipe, run = parse(AgeRecipe, line.split())
    assert (recipe.size, recipe.pretrained, recipe.clip_grad) == ((96, 64), False, 1.0)
    assert (recipe.drop_ages, recipe.old_from, run.fold) == (((57, 59), (28, 28)), 58, 1)


@pytest.mark.parametrize("bins", ["auto", "0-120", "29-60"])
def test_years_that_are_learned_span_all_groups(bins):
    recipe, _ = parse(AgeRecipe, ["--bins", bins, "--drop-ages", "0-120"])
    assert (recipe.bins, recipe.drop_ages) == (bins, ((0, 120),))


def test_sagemaker_variables(monkeypatch):
    monkeypatch.setenv("SM_CHANNEL_TRAIN", "/in/train/images")
    monkeypatch.setenv("SM_MODEL_DIR", "/out")
    _, run = parse(MaskRecipe, [])
    assert (run.data_dir(), run.out_file(MaskRecipe)) == (
        Path("/in/train/images"),
        Path("/out/m.pt"),
    )


UPWARDS = "expected a range of years in ascending order, at most 120, such as 57-59"
BINS = "expected auto, or years from below 30 to 60 or above, such as 18-60"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--drop-ages 59-57", f"'59-57': {UPWARDS} ("),
        ("--drop-ages 119-121", f"'119-121': {UPWARDS} ("),
        ("--drop-ages 57_59", "'57_59': expected a range of years, such as 57-59 ("),
        ("--bins 30-60", f"'30-60': {BINS} ("),
        ("--bins 29-59", f"'29-59': {BINS} ("),
        ("--size 8", "32 to 1024"),
        ("--epochs 0", "from 1"),
        ("--lr fast", "fast"),
        ("--loss hinge", "choose from cross_entropy, weighted_ce"),
        ("--loss focl", "did you mean focal?"),
        ("--epocs 3", "unknown flag --epocs; did you mean --epochs?"),
        ("--batch_size=3", "unknown flag --batch_size; did you mean --batch-size?"),
        ("--learning-rate 1", "unknown flag --learning-rate; did you mean --lr?"),
        ("--aug lihgt", "did you mean light?"),
        ("--model efficentnet_b0", "no such model; did you mean efficientnet_b0?"),
        ("--model efficientnet_b33", "no such model; did you mean efficientnet_b3?"),
        ("--model resnet18.nope", "no such weights; did you mean resnet18."),
        ("--model efficientnet_b6", "no pretrained weights in timm; tf_efficientnet_b6 has some"),
        ("--model tf_efficientnet_b3_ns", "tf_efficientnet_b3.ns_jft_in1k has some"),
        ("--opt adamww", "no such optimizer; did you mean adamw?"),
        ("photo.jpg", "no flag before 'photo.jpg'"),
        ("--pretrained=False", "--pretrained"),
        ("--epoch 3", "--epoch"),
        ("--data=--", "argument --data: -- is no value; a file of that name is ./-- ("),
        ("--fold 5", "0 to 4"),
        ("--old-from 25", "from 31"),
        ("--center 600", "32 to 512"),
        ("--mean 0.5 0.5", "--mean takes model, imagenet, none, or three numbers"),
        ("--mean 1.5 1 1", "three numbers from 0 to 1"),
        ("--std 0 1 1", "can't be divided by 0"),
        ("--aug none light", "--aug none can't be combined with others"),
        ("--aug blur", "'blur'"),
        ("--sched step", "needs --decay-epochs"),
        ("--sched multistep", "needs --decay-milestones"),
        ("--beta 0.9", "from 0.999"),
        ("--preset s9", "'s9'"),
    ],
)
def test_wrong_flags_get_one_line_and_status_2(line, words, capsys):
    with pytest.raises(SystemExit) as stop:
        raise SystemExit(main(AgeRecipe, line.split()))
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert words in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_timms_spellings_are_taken_too():
    line = "--img-size 96 --data-dir d --initial-checkpoint w.pt -b 8 -j 1"
    recipe, run = parse(MaskRecipe, line.split())
    assert (recipe.size, recipe.weights, recipe.batch_size) == ((96, 96), Path("w.pt"), 8)
    assert (run.data, run.workers) == (Path("d"), 1)


@pytest.mark.parametrize("program", ["mask.train", "combine", "common.tools.convert"])
def test_every_command_says_its_version(program):
    command = [sys.executable, "-m", program, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.fullmatch(r"face-mask-gender-age \d+\.\d+\S*\n", done.stdout)


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_survive_a_round_trip(recipe):
    chosen = dataclasses.replace(recipe(), size=(96, 64), weights=Path("w.pt"), clip_grad=2.0)
    chosen = dataclasses.replace(chosen, mean=(0.5, 0.25, 0.0), aug=("light", "jitter"))
    if recipe is AgeRecipe:
        chosen = dataclasses.replace(chosen, drop_ages=((57, 59), (28, 29)))
    fields = chosen.to_dict()
    assert recipe.from_dict(fields) == chosen
    with pytest.raises(ValueError, match="unheard"):
        recipe.from_dict(fields | {"unheard": 1})
    with pytest.raises(ValueError, match="stem_stride"):
        recipe.from_dict({name: fields[name] for name in fields if name != "stem_stride"})


def test_run_check_names_the_folds():
    with pytest.raises(UserError, match="--fold 7: with --folds 3"):
        parse(MaskRecipe, ["--folds", "3", "--fold", "7"])


def face(view: str = "mask1", gender: str = "male", age: int = 40) -> Face:
    return Face(Path("x.jpg"), view, Person("p", gender, age))


@pytest.mark.parametrize(
    ("view", "label"), [("mask1", 0), ("mask5", 0), ("incorrect_mask", 1), ("normal", 2)]
)
def test_mask_labels(view, label):
    assert MaskRecipe().label(face(view)) == label


def test_gender_labels():
    assert [GenderRecipe().label(face(gender=g)) for g in ("male", "female")] == [0, 1]


def test_age_labels_and_filters():
    recipe = AgeRecipe(drop_ages=((57, 59), (28, 29)), old_from=55)
    ages = (18, 27, 28, 29, 30, 54, 55, 56, 57, 59, 60)
    assert [recipe.label(face(age=a)) for a in ages] == [0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2]
    assert [recipe.train_label(face(age=a)) for a in ages] == [0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 2]
    assert [a for a in ages if not recipe.trains_on(face(age=a))] == [28, 29, 57, 59]


def test_a_face_is_labelled_by_the_table_and_the_file_name():
    for one, labelled in (
        (face("photo", "", None), [False, False, False]),
        (face("normal", "", None), [True, False, False]),
        (face("photo", "female", 0), [False, True, True]),
    ):
        assert [recipe().label(one) is not None for recipe in RECIPES] == labelled


@pytest.mark.parametrize("recipe", [*RECIPES, Recipe])
def test_every_field_is_a_flag_with_help(recipe):
    for field in dataclasses.fields(recipe):
        first = Recipe.__dataclass_fields__.get(field.name, field)
        assert first.metadata["help"], field.name


@pytest.mark.parametrize(("sent", "status"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_while_a_class_is_made_ends_the_command(sent, status):
    """Imports create thousands of classes, where Python 3.11 raises a RuntimeError instead."""
    program = f"""
import os, signal, sys
from common.base.command import guarded

class Field:
    def __set_name__(self, owner, name):
        os.kill(os.getpid(), signal.{sent})

def command():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    type("Made", (), {{"field": Field()}})

sys.exit(guarded(command))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == status and "Traceback" not in ended.stderr


def test_a_signal_that_an_import_swallowed_still_stops_a_training():
    seen = []

    def command() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with StopFlag() as stop:
            seen.append(stop.signal)

    guarded(command)
    with StopFlag() as later:
        assert (seen, later.signal) == ([signal.SIGINT], None)


CONFIG = {"lr": 0.002, "size": "96x64", "aug": ["light", "clahe"], "mixup": 0.2, "epochs": 3}


@pytest.mark.parametrize("suffix", [".json", ".yaml", ".yml"])
def test_a_config_file_sets_flags_that_the_command_line_overrules(tmp_path, suffix):
    text = json.dumps(CONFIG) if suffix == ".json" else yaml.safe_dump(CONFIG)
    (tmp_path / f"c{suffix}").write_text(text)
    chosen, run = parse(AgeRecipe, f"--config {tmp_path}/c{suffix} --epochs 9 --fold 2".split())
    assert (chosen.lr, chosen.size, chosen.aug) == (0.002, (96, 64), ("light", "clahe"))
    assert (chosen.mixup, chosen.epochs, run.fold) == (0.2, 9, 2)


def test_a_runs_recipe_is_read_back(tmp_path):
    line = (
        "--loss focal --drop-ages 57-59 --size 96x64 --folds 7 --label-fixes core --no-pretrained"
    )
    chosen, run = parse(AgeRecipe, line.split())
    saved = {
        "task": "age",
        "recipe": chosen.to_dict(),
        "run": {name: plain(value) for name, value in vars(run).items()},
        "split": {"hash": "0"},
        "commit": "0",
    }
    (tmp_path / "recipe.json").write_text(json.dumps(saved))
    assert parse(AgeRecipe, ["--config", str(tmp_path / "recipe.json")]) == (chosen, run)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lrr: 1", "no setting 'lrr'; did you mean lr"),
        ("learning-rate: 1", "no setting 'learning_rate'"),
        ("[1, 2]", "expected names with values"),
        ("a: [", "not JSON or YAML"),
        ("task: mask", "settings of mask, not of age"),
        (None, "No such file or directory"),
    ],
)
def test_a_config_that_cannot_be_used_is_one_line(tmp_path, text, words):
    file = tmp_path / "c.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=words):
        parse(AgeRecipe, ["--config", str(file)])


def test_a_config_obeys_what_its_flags_obey(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("loss: focl\n")
    with pytest.raises(SystemExit):
        parse(AgeRecipe, ["--config", str(tmp_path / "c.yaml")])
    assert "did you mean focal" in capsys.readouterr().err
