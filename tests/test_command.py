"""python -m <task>.train and .tune: presets and examples that can be pasted back."""

import dataclasses
import pwd
import shlex
from typing import ClassVar

import pytest

from age.recipe import AgeRecipe
from common.base.fields import spelled
from common.base.run_settings import default_cache
from common.model.recipe import Recipe
from common.training.command import build_parser, main, parse
from gender.recipe import GenderRecipe
from mask.recipe import MaskRecipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class HatRecipe(Recipe):
    """A task without presets."""

    task: ClassVar[str] = "hat"
    classes: ClassVar[tuple[str, ...]] = ("none", "hat")


@pytest.mark.parametrize(
    ("recipe", "name"),
    [(r, name) for r in (MaskRecipe, GenderRecipe, AgeRecipe) for name in sorted(r.presets)],
)
def test_a_printed_preset_can_be_pasted_back(recipe, name, capsys):
    chosen = parse(recipe, ["--preset", name])
    words = shlex.split(capsys.readouterr().out.removeprefix(f"--preset {name} is "))
    assert parse(recipe, words) == chosen


@pytest.mark.parametrize("recipe", [HatRecipe, MaskRecipe])
@pytest.mark.parametrize("verb", ["train", "tune"])
def test_the_example_of_help_can_be_run(recipe, verb):
    parser = build_parser(recipe, verb)
    python, module, name, *flags = shlex.split(parser.epilog.splitlines()[-1])
    assert (python, module, name) == ("python", "-m", f"{recipe.task}.{verb}")
    parser.parse_args(flags)
    assert ("--preset" in parser.format_help()) == bool(recipe.presets)


def test_a_preset_of_a_task_without_any_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(HatRecipe, ["--preset", "scratch"])
    assert "unknown flag --preset" in capsys.readouterr().err


@pytest.mark.parametrize(("cell", "words"), [(None, "no column hat"), ("", "no photo has a label")])
def test_a_column_without_labels_gets_one_line(data, tmp_path, capsys, cell, words):
    """Missing, or empty in every row."""
    (tmp_path / "images").symlink_to(data / "train" / "images")
    table = (data / "train" / "train.csv").read_text().splitlines()
    if cell is not None:
        table = [f"{row},{'hat' if number == 0 else cell}" for number, row in enumerate(table)]
    (tmp_path / "train.csv").write_text("\n".join([*table, ""]))
    logs = f"--log-dir {tmp_path / 'runs'} --out {tmp_path / 'h.pt'}"
    assert main(HatRecipe, f"--data {tmp_path} {logs} --device cpu".split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error and error.count("\n") == 1


@pytest.mark.parametrize("home", [None, "/nowhere"], ids=["none", "not there"])
def test_help_and_the_cache_need_no_home(home, monkeypatch):
    """A container's user id has no name and no home: pwd.getpwuid raises KeyError."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    if home:
        monkeypatch.setenv("HOME", home)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    assert default_cache().is_absolute()
    assert "--cache-dir" in build_parser(MaskRecipe, "train").format_help()
    assert spelled(default_cache())
