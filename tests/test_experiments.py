"""The experiment log: rows that survive company, a table to read, flags to paste, wandb."""

import csv
import dataclasses
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from age.recipe import AgeRecipe
from common.base.errors import UserError
from common.base.fields import FILE_FIELDS, _described, build, flags_of, saved_flags, spelled
from common.base.run_settings import Run
from common.model import checkpoint
from common.model.recipe import Recipe
from common.training import runs, wandb_log
from common.training.command import build_parser, parse
from common.training.experiments import (
    FILE,
    HEADER,
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
    metadata = _described(settings, field.name).metadata
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
    """What the parser makes of `words`, whether or not the fields go together."""
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
    chosen = dataclasses.replace(chosen, resume=None, fold=min(chosen.fold, chosen.folds - 1))
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
        "time": "2026-11-21T10:00:00+00:00", "task": "age", "fold": "0", "changes": "--lr 0.002",
        "commit": "abc1234", "split": "0123456789abcdef", "epochs": 4, "best_epoch": 3,
        "macro_f1": 0.5, "accuracy": 0.6, "val_loss": 0.7, "minutes": 12.5, "checkpoint": "/x/a.pt",
        "run": "age/1",
    }  # fmt: skip
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
    assert read_rows(tmp_path / FILE).count(HEADER) == 1
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


def test_a_table_of_another_version_is_moved_aside(tmp_path, capsys):
    for number in (1, 2):
        (tmp_path / FILE).write_text(f"time,score\nthen,{number}\n")
        add(tmp_path, row())
        assert read_experiments(tmp_path) == [row()]
        aside = tmp_path / f"experiments.{number}.csv"
        assert aside.read_text() == f"time,score\nthen,{number}\n"
        assert str(aside) in capsys.readouterr().err


def test_a_table_edited_by_hand_is_read_on(tmp_path):
    """A spreadsheet adds a mark in front, other line ends, and leaves out the last of them."""
    add(tmp_path, row())
    text = (tmp_path / FILE).read_text().replace("\n", "\r\n").rstrip()
    (tmp_path / FILE).write_text(f"\ufeff{text}", newline="")
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
    assert not (tmp_path / "runs" / FILE).exists()
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
    (tmp_path / "runs" / FILE).mkdir(parents=True)
    status, printed = train_tiny(MaskRecipe, data, tmp_path, "--epochs 1")
    assert status == 0
    assert "macro F1" in printed.splitlines()[-1]
    assert f"warning: {tmp_path / 'runs' / FILE}: no row was added" in capsys.readouterr().err


@pytest.fixture
def log_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four trainings of two tasks; the second age run is the best one."""
    monkeypatch.setenv("COLUMNS", "200")
    shared = {"folds": 5, "limit": None}
    for number, different in enumerate(
        (
            {"run": "age/1", "macro_f1": 0.41, "time": "2026-11-21T10:00:00+00:00"},
            {"task": "mask", "run": "mask/1", "macro_f1": 0.9, "changes": ""},
            {"run": "age/2", "macro_f1": 0.52, "time": "2026-11-21T12:00:00+00:00"},
            {"run": "age/3", "macro_f1": 0.47, "time": "2026-11-21T11:00:00+00:00"},
        )
    ):
        changes = f"--lr {number + 1} --drop-ages 57-59 28-29 --no-pretrained --weights='-a b.pt'"
        experiment = row(**{"changes": changes} | different)
        add(tmp_path, experiment)
        recipe = AgeRecipe(lr=number + 1.0, drop_ages=((57, 59),) * number).to_dict()
        (tmp_path / experiment.run).mkdir(parents=True)
        saved = json.dumps({"recipe": recipe, "split": shared})
        (tmp_path / experiment.run / "recipe.json").write_text(saved)
    return tmp_path


def said(capsys: pytest.CaptureFixture, log_dir: Path, line: str) -> list[str]:
    assert runs.main(["--log-dir", str(log_dir), *line.split()]) == 0
    return capsys.readouterr().out.splitlines()


def numbers(lines: list[str]) -> list[str]:
    return [line.split()[0] for line in lines[1:]]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", "3412"),
        ("--task age", "341"),
        ("--task age --last 2", "34"),
        ("--sort time", "1243"),
        ("--sort time --last 1", "3"),
        ("--task age --sort val_loss", "143"),
    ],
)
def test_numbers_are_the_files_in_whichever_order(log_dir, capsys, line, expected):
    assert "".join(numbers(said(capsys, log_dir, line))) == expected


@pytest.mark.parametrize("width", [80, 100, 125, 200])
def test_the_table_fits_the_terminal_and_hides_nothing(log_dir, capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    add(log_dir, row(run="age/4", changes="--drop-ages " + "57-59 " * 40 + "--lr 0.002"))
    lines = said(capsys, log_dir, "--task age")
    assert max(map(len, lines)) <= width
    assert " ".join(lines).count("57-59") == 40 + 3
    assert any("--lr 0.002" in line for line in lines)
    assert not any(line.endswith("--drop-ages") for line in lines)


def test_runs_that_held_out_others_are_noted(log_dir, capsys):
    assert not any("note:" in line for line in said(capsys, log_dir, ""))
    add(log_dir, row(run="age/4", fold="1"))
    assert "note: age: 2 groups of held-out persons" in said(capsys, log_dir, "")[-1]


def compared(lines: list[str]) -> dict[str, list[str]]:
    """Label → the cells beside it."""
    cells = [[cell.strip() for cell in line.split("  ") if cell] for line in lines]
    return {line[0]: line[1:] for line in cells if line}


def test_compare_shows_what_differs(log_dir, capsys):
    shown = compared(said(capsys, log_dir, f"--compare 1 {log_dir / 'age' / '2'}"))
    assert shown["lr"] == ["1.0", "3.0"]
    assert shown["drop-ages"] == ["none", "57-59 57-59"]
    assert shown["macro F1"] == ["0.4100", "0.5200", "+0.1100"]
    assert shown["split"] == ["0123456789abcdef"] * 2
    assert "size" not in shown
    assert not any(label.startswith("note:") for label in shown)


def test_compare_without_recipe_json_reads_the_changes(log_dir, capsys):
    (log_dir / "age" / "1" / "recipe.json").unlink()
    add(log_dir, row(run="age/4", changes="--lr 1 --crop none", split="f" * 16))
    shown = compared(said(capsys, log_dir, "--compare 1 age/4"))
    assert shown["weights"] == ["-a b.pt", "(default)"]
    assert shown["pretrained"] == ["off", "(default)"]
    assert shown["drop-ages"] == ["57-59 28-29", "(default)"]
    assert shown["crop"] == ["(default)", "none"]
    assert "lr" not in shown
    notes = [label for label in shown if label.startswith("note:")]
    assert "age/1/recipe.json" in notes[0]
    assert "the scores don't compare" in notes[-1]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--compare 1 5", "--compare 5: "),
        ("--compare 0 1", "has rows 1 to 4"),
        ("--compare 1 age/9", "has no such run"),
        ("--task glasses", "no such training; tasks in it: age, mask"),
        ("--log-dir nowhere", "a training with --log-dir nowhere makes it"),
    ],
)
def test_a_wrong_question_gets_one_line(log_dir, capsys, line, words):
    assert runs.main(["--log-dir", str(log_dir), *line.split()]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("cells", "words"),
    [(["x"], "row 1 has 1 columns"), (["?"] * len(HEADER), "row 1: epochs is '?'")],
)
def test_a_row_that_is_none_is_named(tmp_path, capsys, cells, words):
    with (tmp_path / FILE).open("w") as stream:
        csv.writer(stream).writerows([HEADER, cells])
    assert runs.main(["--log-dir", str(tmp_path)]) == 2
    assert words in capsys.readouterr().err


def test_the_table_needs_no_torch(log_dir):
    code = (
        "import sys\nfrom common.training.runs import main\n"
        f"assert main(['--log-dir', {str(log_dir)!r}]) == 0\n"
        "assert not {'torch', 'pandas', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], env=environment(log_dir), check=True, timeout=60)


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The package, offline, without a login, and forgotten afterwards."""
    import wandb as package

    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    package.teardown()
    yield package
    package.teardown()


def wandb_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("runs/*/*/wandb/offline-run-*/run-*.wandb"))


def test_wandb_has_every_epoch_and_changes_nothing(data, tmp_path, wandb, capsys):
    """Stopped by a signal and resumed: the weights are those of a run without wandb."""
    line = "--epochs 2 --lr 1e-3"
    (tmp_path / "without").mkdir()
    train_tiny(MaskRecipe, data, tmp_path / "without", line)
    status, printed = train_tiny(
        interrupted(6, signal.SIGTERM), data, tmp_path, f"{line} --log-wandb --wandb-project faces"
    )
    assert status == 128 + signal.SIGTERM
    assert "saved to" in printed
    assert [row.epochs for row in read_experiments(tmp_path / "runs")] == [1]
    status, printed = train_tiny(MaskRecipe, data, tmp_path, "--resume")
    assert status == 0
    assert [row.epochs for row in read_experiments(tmp_path / "runs")] == [2]
    wandb.teardown()  # which waits until all is written
    first, second = wandb_files(tmp_path)
    assert first.name == second.name  # the same run goes on
    assert [line for line in printed.splitlines() if line.startswith("wandb")] == [
        f"wandb: offline; to send it: wandb sync {second.parent}"
    ]
    assert "wandb:" not in capsys.readouterr().err
    (metrics,) = tmp_path.glob("runs/mask/*/metrics.csv")
    rows = list(csv.DictReader(metrics.read_text().splitlines()))
    content = second.read_bytes()
    for name in ("train_loss", "val_loss", "best_val_macro_f1", "test_efficientnet", "faces"):
        assert name.encode() in content, name
    for epoch in rows:
        assert epoch["train_loss"].encode() in content
        assert epoch["val_loss"].encode() in content
    for name in ("crops", "curves", "confusion"):
        assert list(tmp_path.glob(f"runs/mask/*/wandb/*/files/media/images/{name}_*")), name
    weights = [
        checkpoint.read(next(folder.glob("runs/mask/*/last.pt")))["state_dict"]
        for folder in (tmp_path, tmp_path / "without")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


def test_what_wandb_lacks_is_said_before_the_crops(data, tmp_path, wandb, monkeypatch):
    monkeypatch.setattr("common.training.run.prepare_crops", lambda *_, **__: pytest.fail("late"))
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(UserError, match=r"--log-wandb: .*wandb login.*WANDB_MODE=offline"):
        train_tiny(MaskRecipe, data, tmp_path, "--log-wandb")
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    wandb.teardown()
    with pytest.raises(UserError, match="'online', 'offline'"):
        train_tiny(MaskRecipe, data, tmp_path, "--log-wandb")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install '\.\[wandb\]'"):
        train_tiny(MaskRecipe, data, tmp_path, "--log-wandb")


ROW = {"epoch": "1", "val_macro_f1": "0.5", "best": "1"}


def test_wandb_without_a_network_goes_on_offline(tmp_path, wandb, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(wandb_log, "INIT_TIMEOUT", 1)
    wandb_log.check_wandb()
    log = wandb_log.WandbLog(tmp_path, "p", "name", {}, [ROW])
    log.close()
    wandb.teardown()  # which waits until all is written
    printed = capsys.readouterr()
    assert "this run is logged offline" in printed.err
    assert "wandb sync" in printed.out
    assert b"val_macro_f1" in next(tmp_path.glob("wandb/offline-*/*.wandb")).read_bytes()


def test_wandb_that_fails_later_ends_no_training(tmp_path, wandb, capsys):
    wandb_log.check_wandb()
    log = wandb_log.WandbLog(tmp_path, "p", "name", {}, [])
    log.run.finish()
    log.epoch(ROW)
    log.epoch(ROW)
    log.close()
    assert capsys.readouterr().err.count("warning: wandb: ") == 1
