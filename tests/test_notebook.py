"""docs/first_steps.ipynb runs from the first cell to the last."""

import os
import re
import sys
from pathlib import Path

import nbformat
import pandas as pd
from nbclient import NotebookClient

from tests.tiny import ROOT, environment

PARAMETERS = """
DATA = {data!r}
PEOPLE = "--people 12 --eval-people 6 --seed 5"
FLAGS = "--model test_efficientnet --size 48 --no-pretrained --epochs 1 --log-dir {logs}"
"""


def test_the_notebook_makes_a_submission_and_reads_a_photo(tmp_path: Path) -> None:
    notebook = nbformat.read(ROOT / "docs" / "first_steps.ipynb", as_version=4)
    codes = [cell for cell in notebook.cells if cell.cell_type == "code"]
    (parameters,) = (cell for cell in codes if "parameters" in cell.metadata.get("tags", ()))
    data = tmp_path / "data"
    parameters.source = PARAMETERS.format(data=str(data), logs=tmp_path / "runs")
    own = environment(tmp_path)
    own["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), own["PATH"]])
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT)}})
    client.execute(env=own)
    assert pd.read_csv(data / "submission.csv").ans.isin(range(18)).all()
    printed = "".join(
        output.text for cell in codes for output in cell.outputs if output.output_type == "stream"
    )
    for task in ("mask", "gender", "age"):
        assert f"{task}: macro F1 " in printed
    assert "18 codes macro F1" in printed
    assert re.search(r"^\S+ (fe)?male \S+ \d+ \d+\.\d+ \(", printed, re.MULTILINE)
