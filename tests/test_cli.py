"""Flags become recipes: frozen names, S2's defaults, one-line errors."""

import dataclasses
from pathlib import Path

import pytest

from age.recipe import AgeRecipe
from common.cli import build_parser, main, parse
from common.data.layout import Face, Person
from common.errors import UserError
from common.recipe import Recipe
from gender.recipe import GenderRecipe
from mask.recipe import MaskRecipe

RECIPES = (MaskRecipe, GenderRecipe, AgeRecipe)
FLAGS = [
    "--allow-bad",
    "--amp",
    "--batch-size",
    "--cache-dir",
    "--clip-grad",
    "--crop",
    "--data",
    "--device",
    "--drop",
    "--epochs",
    "--fold",
    "--folds",
    "--gamma",
    "--help",
    "--limit",
    "--log-dir",
    "--loss",
    "--lr",
    "--margin",
    "--model",
    "--no-amp",
    "--no-pretrained",
    "--opt",
    "--out",
    "--pretrained",
    "--resume",
    "--sched",
    "--seed",
    "--size",
    "--smoothing",
    "--warmup-epochs",
    "--weight-decay",
    "--weights",
    "--workers",
]


@pytest.mark.parametrize("recipe", RECIPES)
def test_flags_are_frozen(recipe):
    """A flag that users know can't vanish or be renamed unnoticed."""
    own = ["--drop-ages", "--old-from", "--sigma"] if recipe is AgeRecipe else []
    found = [o for a in build_parser(recipe)._actions for o in a.option_strings if o[1] == "-"]
    assert sorted(found) == sorted(FLAGS + own)


def test_defaults_are_those_of_s2():
    mask, gender, age = (parse(recipe, [])[0] for recipe in RECIPES)
    assert [(r.model, r.size, r.opt, r.sched) for r in (mask, gender, age)] == [
        ("efficientnet_b3", (224, 224), "adam", "none")
    ] * 3
    assert [r.lr for r in (mask, gender, age)] == [3e-4, 1e-4, 1e-4]
    assert [r.epochs for r in (mask, gender, age)] == [10, 10, 4]
    assert [r.loss for r in (mask, gender, age)] == ["cross_entropy", "cross_entropy", "focal"]
    assert {(r.batch_size, r.seed, r.pretrained) for r in (mask, gender, age)} == {(64, 777, True)}


def test_verbatim_age_command():
    recipe, run = parse(AgeRecipe, ["--loss", "focal", "--drop-ages", "57-59"])
    assert recipe.drop_ages == ((57, 59),)
    assert run.data_dir() == Path("data")
    assert run.out_file("age") == Path("a.pt")


def test_values_reach_the_recipe():
    line = "--size 96x64 --no-pretrained --clip-grad 1 --drop-ages 57-59 28 --old-from 58 --fold 1"
    recipe, run = parse(AgeRecipe, line.split())
    assert (recipe.size, recipe.pretrained, recipe.clip_grad) == ((96, 64), False, 1.0)
    assert (recipe.drop_ages, recipe.old_from, run.fold) == (((57, 59), (28, 28)), 58, 1)


def test_sagemaker_variables(monkeypatch):
    monkeypatch.setenv("SM_CHANNEL_TRAIN", "/in/train/images")
    monkeypatch.setenv("SM_MODEL_DIR", "/out")
    _, run = parse(MaskRecipe, [])
    assert (run.data_dir(), run.out_file("mask")) == (Path("/in/train/images"), Path("/out/m.pt"))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--drop-ages 59-57", "59-57"),
        ("--drop-ages 57_59", "57_59"),
        ("--size 8", "32 to 1024"),
        ("--epochs 0", "from 1"),
        ("--lr fast", "fast"),
        ("--loss hinge", "'cross_entropy', 'focal'"),
        ("--pretrained=False", "--pretrained"),
        ("--epoch 3", "--epoch"),
        ("--fold 5", "0 to 4"),
        ("--old-from 25", "from 31"),
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


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_survive_a_round_trip(recipe):
    chosen = dataclasses.replace(recipe(), size=(96, 64), weights=Path("w.pt"), clip_grad=2.0)
    if recipe is AgeRecipe:
        chosen = dataclasses.replace(chosen, drop_ages=((57, 59), (28, 29)))
    assert recipe.from_dict(chosen.to_dict()) == chosen
    with pytest.raises(ValueError, match="unheard"):
        recipe.from_dict(chosen.to_dict() | {"unheard": 1})


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
    assert [a for a in ages if not recipe.keep(face(age=a))] == [28, 29, 57, 59]


@pytest.mark.parametrize("recipe", [*RECIPES, Recipe])
def test_every_field_is_a_flag_with_help(recipe):
    for field in dataclasses.fields(recipe):
        described = Recipe.__dataclass_fields__.get(field.name, field)
        assert described.metadata["help"], field.name
