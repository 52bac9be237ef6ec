"""Imports: a folder is a floor, imports go down only (CONTRIBUTING.md), and have no effects."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TASKS = ("mask", "gender", "age")
# From the roof to the ground. A file imports its own floor and those that stand further down.
FLOORS = (
    ("combine",),
    TASKS,
    ("common.tools",),
    ("common.inference",),
    ("common.training",),
    ("common.model",),
    ("common.data",),
    ("common.faces",),
    ("common.render",),
    ("common.base",),
)
SOURCES = [
    ROOT / "combine.py",
    *(p for name in (*TASKS, "common") for p in sorted((ROOT / name).rglob("*.py"))),
]
OURS = {"combine", "common", "tests", *TASKS}


def module_name(source: Path) -> str:
    parts = source.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(source): source for source in SOURCES}


def imported(source: Path) -> set[str]:
    """The project's modules that a source imports, inside functions and `__main__` too."""
    names = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:  # a module of a package, or a name in a module
                full = f"{node.module}.{alias.name}"
                names.add(full if full in MODULES else node.module or "")
    return {name for name in names if name.partition(".")[0] in OURS}


def floor(module: str) -> int:
    """The number of a module's floor, 0 at the top."""
    if module == "common":
        return len(FLOORS)
    (number,) = (
        number
        for number, names in enumerate(FLOORS)
        for name in names
        if module == name or module.startswith(f"{name}.")
    )
    return number


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_only(module: str) -> None:
    upward = [name for name in imported(MODULES[module]) if floor(name) < floor(module)]
    assert not upward, f"{module} imports from a floor above"


@pytest.mark.parametrize("task", TASKS)
def test_tasks_know_nothing_of_each_other(task: str) -> None:
    others = {other for other in TASKS if other != task}
    for source in (ROOT / task).rglob("*.py"):
        assert not {name.partition(".")[0] for name in imported(source)} & others, source


def test_nothing_imports_an_offline_command() -> None:
    for module, source in MODULES.items():
        if not module.startswith("common.tools"):
            assert not [n for n in imported(source) if n.startswith("common.tools")], module


def test_no_circle_of_files() -> None:
    arrows = {module: imported(source) - {module} for module, source in MODULES.items()}
    while ends := {module for module, targets in arrows.items() if not targets & arrows.keys()}:
        arrows = {module: targets for module, targets in arrows.items() if module not in ends}
    assert not arrows, "these files import each other, directly or round a corner"


def test_common_names_no_task() -> None:
    """`if task == "age"` has no place in common: no task's name is a string constant there."""
    for source in (ROOT / "common").rglob("*.py"):
        constants = {n.value for n in ast.walk(ast.parse(source.read_text()))
                     if isinstance(n, ast.Constant)}  # fmt: skip
        if source.name == "layout.py" or source.parent.name == "demo":
            continue  # gender is a column of the competition's table
        assert not constants & {"mask", "gender"}, source


def test_tasks_have_the_same_files() -> None:
    files = {task: sorted(p.name for p in (ROOT / task).glob("*.py")) for task in TASKS}
    assert files["mask"] == files["gender"] == files["age"]


def test_files_open_without_running_code() -> None:
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                flags = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert flags.get("weights_only") == "True", source
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                assert "pickle" not in ast.unparse(node), source


STATE = """
import importlib, json, logging, os, pkgutil, signal, sys, threading, warnings

# Libraries have effects of their own when they are imported, so they come first.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
for name in sys.argv[1].split():
    importlib.import_module(name)
del os.environ["NO_ALBUMENTATIONS_UPDATE"]
import cv2
import numpy as np
import torch
from PIL import Image, ImageFile


def state():
    loggers = [logging.getLogger(), *map(logging.getLogger, ("PIL", "python_multipart", "ray"))]
    level = getattr(cv2, "getLogLevel", None) or cv2.utils.logging.getLogLevel
    return {
        "hooks": [str(h) for h in (sys.excepthook, sys.unraisablehook, threading.excepthook)],
        "environment": [f"{name}={value}" for name, value in sorted(os.environ.items())],
        "Pillow": [Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES],
        "warnings": [str(f) for f in warnings.filters],
        "logging": [[log.name, log.level, [str(h) for h in log.handlers]] for log in loggers],
        "OpenCV": [level(), cv2.getNumThreads()],
        "torch": [torch.get_num_threads(), str(torch.get_default_dtype()), torch.initial_seed()],
        "NumPy": np.geterr(),
        "signals": [str(signal.getsignal(s)) for s in signal.valid_signals()],
        "threads": threading.active_count(),
        "folder": os.getcwd(),
    }


before = state()
for name in sys.argv[2].split():
    importlib.import_module(name)
after = state()
changed = {name: [before[name], after[name]] for name in before if before[name] != after[name]}
for lists in changed.values():
    if isinstance(lists[0], list):  # show what differs only
        lists[:] = [item for item in lists[0] if item not in lists[1]], [
            item for item in lists[1] if item not in lists[0]]
print(json.dumps(changed))
"""
LIBRARIES = (
    "numpy pandas PIL.Image cv2 torch torchvision timm albumentations facenet_pytorch sklearn.metrics "
    "matplotlib.pyplot jinja2 tqdm optuna onnxruntime fastapi uvicorn python_multipart ray.data"
)


def test_imports_have_no_effects() -> None:
    """Hooks, environment, signals, and the limits and logs of libraries stay as they are."""
    modules = " ".join(name for name in MODULES if not name.endswith("__main__"))
    variables = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    output = subprocess.run(
        [sys.executable, "-c", STATE, LIBRARIES, modules],
        cwd=ROOT,
        env=variables,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    assert json.loads(output.splitlines()[-1]) == {}
