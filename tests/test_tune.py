"""python -m <task>.tune: real trainings, a study that continues, a command to paste."""

import dataclasses
import json
import shlex
from pathlib import Path

import optuna
import pytest

from age.recipe import AgeRecipe
from common.base.errors import UserError
from common.training.command import parse, parse_search
from common.training.search_space import search_space
from common.training.tune import suggested, tune
from gender.recipe import GenderRecipe
from mask.recipe import MaskRecipe
from tests.tiny import FLAGS

TINY = f"{FLAGS} --epochs 1 --device cpu --aug none"


def search(data: Path, folder: Path, line: str) -> int:
    where = f"--data {data} --out {folder / 'a.pt'} --log-dir {folder / 'runs'}"
    return tune(*parse_search(AgeRecipe, f"{TINY} {where} {line}".split()))


def test_a_search_ends_goes_on_and_prints_a_command_that_parses(data, tmp_path, capsys):
    assert search(data, tmp_path, "--trials 2 --loss dldl") == 0
    assert search(data, tmp_path, "--trials 3 --loss dldl") == 0
    printed = capsys.readouterr().out
    assert "the study has 2 trials; 1 are left of 3" in printed
    assert printed.count("\ntrial ") == 3
    (file,) = (tmp_path / "runs" / "age" / "tune").glob("*.json")
    saved = json.loads(file.read_text())
    _, _, *flags = shlex.split(saved["command"])
    best, _ = parse(AgeRecipe, flags[1:])
    assert best.to_dict() == saved["recipe"]
    assert (best.loss, best.aug, best.batch_size, best.epochs) == ("dldl", ("none",), 16, 1)
    assert best.lr != AgeRecipe().lr
    assert f"  {saved['command']}" in printed
    assert not list(tmp_path.rglob("last.pt")) and not (tmp_path / "a.pt").exists()


def test_other_flags_make_another_study(data, tmp_path, capsys):
    search(data, tmp_path, "--trials 1 --loss dldl")
    search(data, tmp_path, "--trials 1 --loss focal")
    assert "1 trials to the end" in capsys.readouterr().out
    assert len(list((tmp_path / "runs" / "age" / "tune").glob("*.json"))) == 2


@pytest.mark.parametrize("recipe", [MaskRecipe, GenderRecipe, AgeRecipe])
def test_every_suggestion_is_a_recipe_and_given_flags_stay(recipe):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        chosen = suggested(recipe(batch_size=48), study.ask(), {"batch_size", "data"})
        chosen.check()
        assert chosen.batch_size == 48
        assert recipe.from_dict(chosen.to_dict()) == chosen
    assert set(search_space(recipe())) <= {f.name for f in dataclasses.fields(recipe)}


def test_a_search_that_cannot_work_is_named(data, tmp_path):
    with pytest.raises(UserError, match="needs one --fold"):
        search(data, tmp_path, "--fold all")
    (tmp_path / "study.db").write_text("no database")
    with pytest.raises(UserError, match=r"study.db: no study can be kept there"):
        search(data, tmp_path, f"--storage {tmp_path / 'study.db'} --crop none")
    assert (tmp_path / "study.db").read_text() == "no database"
