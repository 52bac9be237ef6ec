"""experiments.csv: no row is lost, and its flags can be pasted."""

import dataclasses
import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from age.recipe import AgeRecipe
from common.base.errors import UserError
from common.base.fields import FILE_FIELDS, build, declared, flags_of, saved_flags, spelled
from common.base.run_settings import Run
from common.model import checkpoint
from common.model.recipe import Recipe
from common.training.command import build_parser, parse
from common.training.experiments import (
    EXPERIMENT_COLUMNS,
    EXPERIMENTS_TABLE,
    Experiment,
    add,
    code_commit,
    read_experiments,
    read_rows,
)
from gender.recipe import GenderRecipe
from mask.recipe import MaskRecipe
from tests.test_training import one_thread  # noqa: F401 (automatic)
from tests.tiny import environment, interrupted, train_tiny

RECIPES = (MaskRecipe, GenderRecipe, AgeRecipe)
WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
YEARS = st.tuples(st.integers(0, 120), st.integers(0, 120)).map(lambda pair: tuple(sorted(pair)))
VALUES = {
    bool: st.booleans(),
    int: st.integers(0, 200),
    float: st.floats(0, 1, exclude_max=True),
    str: WORDS.filter(lambda word: word != "--"),  # which is refused
    Path: WORDS.map(Path),
    tuple[Path, ...]: st.lists(WORDS.map(Path), max_size=3).map(tuple),
    tuple[int, int]: st.tuples(st.integers(32, 512), st.integers(32, 512)),
    tuple[tuple[int, int], ...]: st.lists(YEARS, max_size=3).map(tuple),
    tuple[float, ...]: st.lists(st.floats(0.5, 9), max_size=3).map(tuple),
    tuple[str | float, ...]: st.sampled_from([("model",), ("none",), (0.5, 0.25, 1.0)]),
}


def values(settings: type, field: dataclasses.Field) -> st.SearchStrategy:
    """Values of a field that its flag takes: no flag takes a value away again."""
    metadata = declared(settings, field.name).metadata
    if "choices" in metadata["argument"]:
        one = st.sampled_from(metadata["argument"]["choices"])
        several = st.lists(one, min_size=1, max_size=3).map(tuple)
        return several if "nargs" in metadata["argument"] else one
    kinds = [kind for kind in getattr(field.type, "__args__", ()) if kind in VALUES]
    kind = kinds[0] if field.type not in VALUES else field.type
    if kind in (int, float, str) and metadata["parse"]:
        return VALUES[kind].filter(lambda value: taken(metadata["parse"], value))
    return VALUES[kind]


def taken(parse: Any, value: Any) -> bool:
    try:
        return parse(str(value)) == value
    except ValueError:
        return False


def some(settings: type) -> st.SearchStrategy:
    """`settings` with any of its fields changed."""
    fields = {f.name: values(settings, f) for f in dataclasses.fields(settings)}
    return st.fixed_dictionaries({}, optional=fields).map(lambda given: settings(**given))


def read_back(recipe: type[Recipe], words: list[str]) -> Recipe:
    """Parse `words`, whether or not the fields fit together."""
    return build(recipe, vars(build_parser(recipe).parse_args(words)))


@pytest.mark.parametrize("recipe", RECIPES)
@given(data=st.data())
def test_flags_read_back_to_the_same_recipe(recipe, data):
    chosen, base = data.draw(some(recipe)), data.draw(some(recipe))
    pasted = shlex.split(shlex.join(flags_of(chosen)))
    assert read_back(recipe, pasted) == chosen
    assert all(spelled(value) for value in vars(chosen).values())
    names = [f.name for f in dataclasses.fields(recipe)]
    kept = {n: getattr(base, n) for n in names if getattr(chosen, n) is None}
    chosen = dataclasses.replace(chosen, **kept)
    assert read_back(recipe, flags_of(base) + flags_of(chosen, base)) == chosen
    folder = {n: Path("/somewhere", v) for n in FILE_FIELDS if (v := getattr(chosen, n))}
    saved = dataclasses.replace(chosen, **folder).to_dict()
    named = {n: type(getattr(chosen, n))(file.name) for n, file in folder.items()}
    assert read_back(recipe, saved_flags(saved)) == dataclasses.replace(chosen, **named)


@given(chosen=some(Run))
def test_flags_read_back_to_the_same_run(chosen):
    own_project = chosen.wandb_project != Run().wandb_project
    chosen = dataclasses.replace(
        chosen,
        resume=None,
        fold=min(chosen.fold, chosen.folds - 1),
        log_wandb=chosen.log_wandb or own_project,
        pseudo=chosen.pseudo or chosen.pseudo_images,
    )
    assert parse(MaskRecipe, flags_of(chosen))[1] == chosen


def test_flags_are_those_a_user_would_type():
    chosen = AgeRecipe(lr=0.002, size=(96, 64), pretrained=False, drop_ages=((57, 59), (28, 28)))
    line = "--no-pretrained --size 96x64 --lr 0.002 --drop-ages 57-59 28-28"
    assert shlex.join(flags_of(chosen)) == line
    assert flags_of(AgeRecipe()) == []
    assert flags_of(AgeRecipe(), chosen)[-1] == "--drop-ages"
    with pytest.raises(ValueError, match="clip-grad"):
        flags_of(AgeRecipe(), AgeRecipe(clip_grad=1.0))


def row(**given: Any) -> Experiment:
    """A training's row; the fields that a test cares about are `given`."""
    fields: dict[str, Any] = {
        "time": "2026-11-21T10:00:00+00:00",
        "task": "age",
        "fold": "0",
        "changes": "--lr 0.002",
        "commit": "abc1234",
        "split": "0123456789abcdef",
        "epochs": 4,
        "best_epoch": 3,
        "macro_f1": 0.5,
        "accuracy": 0.6,
        "val_loss": 0.7,
        "minutes": 12.5,
        "checkpoint": "/x/a.pt",
        "run": "age/1",
    }
    return Experiment(**fields | given)


ADDING = """
import json, sys, time
from pathlib import Path
from common.training.experiments import Experiment, add
folder, name, fields = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
(folder / name).touch()
while not (folder / "go").exists():
    time.sleep(0.001)
for number in range(20):
    fields |= {"run": f"{name}/{number}", "changes": f"--model '{name},\\n{number}'"}
    add(folder, Experiment(**fields))
"""


def test_trainings_that_end_at_once_lose_no_row(tmp_path):
    names = ["a", "b", "c"]
    command, fields = [sys.executable, "-c", ADDING, str(tmp_path)], json.dumps(vars(row()))
    processes = [subprocess.Popen([*command, n, fields], env=environment(tmp_path)) for n in names]
    while not all((tmp_path / name).exists() for name in names):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)
    (tmp_path / "go").touch()
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert read_rows(tmp_path / EXPERIMENTS_TABLE).count(EXPERIMENT_COLUMNS) == 1
    found = read_experiments(tmp_path)
    assert sorted(e.run for e in found) == sorted(f"{n}/{i}" for n in names for i in range(20))
    assert {e.changes for e in found} == {f"--model '{n},\n{i}'" for n in names for i in range(20)}


def test_a_resumed_training_keeps_its_row(tmp_path):
    first, other = row(run="age/1", minutes=1.5), row(run="age/2")
    add(tmp_path, first)
    add(tmp_path, other)
    add(tmp_path, row(run="age/1", minutes=2.25, epochs=9, best_epoch=8))
    again = dataclasses.replace(first, minutes=3.75, epochs=9, best_epoch=8)
    assert read_experiments(tmp_path) == [again, other]


def test_a_table_with_other_columns_is_left_alone(tmp_path):
    (tmp_path / EXPERIMENTS_TABLE).write_text("time,score\nthen,1\n")
    with pytest.raises(ValueError, match="has other columns"):
        add(tmp_path, row())
    assert (tmp_path / EXPERIMENTS_TABLE).read_text() == "time,score\nthen,1\n"
    with pytest.raises(UserError, match="has other columns than expected: time, task"):
        read_experiments(tmp_path)


def test_a_table_edited_by_hand_is_read_on(tmp_path):
    """A spreadsheet adds a mark in front, other line ends, and leaves out the last of them."""
    add(tmp_path, row())
    text = (tmp_path / EXPERIMENTS_TABLE).read_text().replace("\n", "\r\n").rstrip()
    (tmp_path / EXPERIMENTS_TABLE).write_text(f"\ufeff{text}", newline="")
    add(tmp_path, row(run="age/2", checkpoint="/x/\udcff.pt"))
    assert read_experiments(tmp_path) == [row(), row(run="age/2", checkpoint="/x/\udcff.pt")]


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_the_commit_is_the_codes_own(tmp_path, monkeypatch):
    def git(*words: str) -> str:
        who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        command = ["git", "-C", str(tmp_path), *who, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    ours, installed = tmp_path / "ours.py", tmp_path / "installed.py"
    ours.touch()
    installed.touch()
    assert code_commit(ours) == ""
    git("init")
    git("add", "ours.py")
    git("commit", "-m", "x")
    git("tag", "-m", "x", "v1")
    head = git("rev-parse", "--short", "HEAD")
    assert (code_commit(ours), code_commit(installed)) == (head, "")
    ours.write_text("changed")
    assert code_commit(ours) == f"{head}+"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_commit(ours) == ""


def test_a_training_leaves_its_row_once_it_has_a_score(data, tmp_path):
    line = "--epochs 2 --lr 1e-3 --limit 11 --fold 2"
    train_tiny(interrupted(1, signal.SIGINT), data, tmp_path, line)
    assert not (tmp_path / "runs" / EXPERIMENTS_TABLE).exists()
    train_tiny(MaskRecipe, data, tmp_path, "--resume")
    (found,) = read_experiments(tmp_path / "runs")
    card = checkpoint.read(tmp_path / "m.pt")["card"]
    assert found.epochs == 2
    assert (found.task, found.fold, found.split) == ("mask", "2", card["split"]["hash"])
    assert found.best_epoch == card["metrics"]["epoch"]
    assert found.macro_f1 == pytest.approx(card["metrics"]["macro_f1"], abs=1e-6)
    assert found.accuracy == pytest.approx(card["metrics"]["accuracy"], abs=1e-6)
    assert found.val_loss == pytest.approx(card["metrics"]["loss"], abs=1e-6)
    assert found.checkpoint == str(tmp_path / "m.pt")
    saved = json.loads((tmp_path / "runs" / found.run / "recipe.json").read_text())
    assert found.commit == saved["commit"] == code_commit()
    recipe, run = parse(MaskRecipe, shlex.split(found.changes))
    assert recipe.to_dict() == saved["recipe"]
    assert (run.folds, run.limit) == (3, 11)
    assert not {"--workers", "--fold", "--data", "--out"} & set(shlex.split(found.changes))


def test_a_table_that_cannot_be_written_loses_no_training(data, tmp_path, capsys):
    (tmp_path / "runs" / EXPERIMENTS_TABLE).mkdir(parents=True)
    status, printed = train_tiny(MaskRecipe, data, tmp_path, "--epochs 1")
    assert status == 0
    assert "macro F1" in printed.splitlines()[-2]
    assert (
        f"warning: {tmp_path / 'runs' / EXPERIMENTS_TABLE}: no row was added"
        in capsys.readouterr().err
    )
