"""mutmut's mutants of the code that splits, labels, saves and merges, and which of them the tests kill.

A mutant differs by one number, comparison, argument, … in one function; the tests that reach the
function are run on it, the fastest first. setup.cfg's [mutmut] names the modules and the tests.
Constants and decorated functions, properties among them, have no mutants. It all stays in mutants/:
`mutmut show NAME` says what a survivor's change is.
"""

import configparser
import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.processes import Place
from tests.tiny import ROOT

SHARE = 0.8


def mutants(count: int, place: Place) -> tuple[int, int, str]:
    """Count how many of the first `count` modules lose enough of their mutants, and what all lose."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    modules = settings["mutmut"]["only_mutate"].split()[:count]
    names = [f"{module.removesuffix('.py').replace('/', '.')}.*" for module in modules]
    folder = ROOT / "mutants"
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", "1", *names]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if run.returncode:  # a test that fails on the code as it is, say
        sys.exit(run.stdout[-3000:] + run.stderr)
    found = {module: outcomes(folder / f"{module}.meta") for module in modules}
    for name, outcome in (pair for every in found.values() for pair in every.items()):
        print("" if outcome == "killed" else f"{outcome}: {name}\n", end="")
    killed = {module: list(every.values()).count("killed") for module, every in found.items()}
    done = sum(killed[module] >= SHARE * len(every) for module, every in found.items())
    said = (f"{module} {killed[module]} of {len(every)}" for module, every in found.items())
    return done, len(modules), ", ".join(said)


def outcomes(file: Path) -> dict[str, str]:
    """Mutant → killed, survived, timeout, no tests, …"""
    from mutmut.stats import status_by_exit_code

    codes = json.loads(file.read_text())["exit_code_by_key"]
    return {name: status_by_exit_code[code] for name, code in codes.items()}
