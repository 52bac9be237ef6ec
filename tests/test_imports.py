"""Who may import whom: the walls of the house."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TASKS = ("mask", "gender", "age")
OURS = {*TASKS, "common", "combine", "tests"}
SOURCES = [p for name in (*TASKS, "common") for p in sorted((ROOT / name).rglob("*.py"))]


def imported(tree: ast.AST) -> set[str]:
    """The project's own top-level modules that a source imports, anywhere in it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names} & OURS


def allowed(package: str) -> set[str]:
    return {"common"} if package == "common" else {"common", package}


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_packages_import_only_what_they_may(source: Path) -> None:
    package = source.relative_to(ROOT).parts[0]
    assert imported(ast.parse(source.read_text())) <= allowed(package)


def test_combine_imports_tasks_and_common() -> None:
    tree = ast.parse((ROOT / "combine.py").read_text())
    assert imported(tree) == {*TASKS, "common"}


def test_common_names_no_task() -> None:
    """`if task == "age"` has no place in common: no task's name is a string constant there."""
    for source in (ROOT / "common").rglob("*.py"):
        constants = {n.value for n in ast.walk(ast.parse(source.read_text()))
                     if isinstance(n, ast.Constant)}  # fmt: skip
        if source.name in EXEMPT:
            continue
        assert not constants & {"mask", "gender"}, source


EXEMPT = {
    "layout.py",  # gender is a column of the competition's table
    "demo.py",
    "drawing.py",
    "people.py",
    "canvas.py",
}


def test_tasks_have_the_same_files() -> None:
    files = {task: sorted(p.name for p in (ROOT / task).glob("*.py")) for task in TASKS}
    assert files["mask"] == files["gender"] == files["age"]


def test_files_open_without_running_code() -> None:
    for source in [*SOURCES, ROOT / "combine.py"]:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                flags = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert flags.get("weights_only") == "True", source
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                assert "pickle" not in ast.unparse(node), source
