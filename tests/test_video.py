"""combine.py --input clip.mp4: tracked faces, a prediction each, a table and an annotated clip."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

import combine
from age.recipe import AgeRecipe
from common.data.layout import Face
from common.faces import detector
from common.inference.video.clip import FrameReader, scan
from common.model.loaded import LoadedModel
from gender.recipe import GenderRecipe
from mask.recipe import MaskRecipe
from tests.clips import RATE, write_clip
from tests.tiny import save_untrained

WORDS = ("mask", "gender", "age")
SIDES = ["x0", "y0", "x1", "y1"]
HEIGHT, WIDTH = 240, 480
FRAMES = 18  # of the walk; the last six show the wall alone
WIDE = 120  # px of each person


def walk(number: int) -> dict[int, int]:
    """Person → the left edge in a frame: one walks right, another left, who comes later."""
    if number >= 12:
        return {}
    return {0: 4 * number} | ({1: 330 - 5 * number} if number >= 4 else {})


def scene(people: list[np.ndarray], places: dict[int, int]) -> np.ndarray:
    """People before a wall, (height, width, 3) uint8 RGB."""
    frame = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    for person, left in places.items():
        frame[40:200, left : left + WIDE] = people[person]
    return frame


@pytest.fixture(scope="module")
def people(faces: tuple[Face, ...]) -> list[np.ndarray]:
    photos = [cv2.imread(str(face.path))[:, :, ::-1] for face in faces if face.view == "normal"]
    return [cv2.resize(photo, (WIDE, 160), interpolation=cv2.INTER_AREA) for photo in photos]


@pytest.fixture(scope="module")
def models(faces: tuple[Face, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained models: m, g, a and another m2; c crops the centre."""
    folder = tmp_path_factory.mktemp("models")
    for recipe, name, fields in (
        (MaskRecipe, "m", {"sure": 30}),
        (MaskRecipe, "m2", {"sure": 300, "seed": 1}),
        (GenderRecipe, "g", {"sure": 30}),
        (AgeRecipe, "a", {"sure": 30, "crop": "face"}),
        (MaskRecipe, "c", {"crop": "center"}),
    ):
        save_untrained(recipe, folder / f"{name}.pt", faces, **{"crop": "eyes"} | fields)
    return folder


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache shared by these tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def clip(people: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The walk."""
    path = tmp_path_factory.mktemp("clips") / "walk.mkv"
    return write_clip(path, (scene(people, walk(number)) for number in range(FRAMES)))


def run(models: Path, boxes: Path, line: str) -> int:
    """combine.py with these models, unless `line` names others, and flags."""
    files = [f"--{task}={models / task[0]}.pt" for task in WORDS]
    how = f"--device cpu --workers 0 --cache-dir {boxes}".split()
    return combine.main([*files, *how, *line.format(models=models).split()])


def test_each_face_is_tracked_and_predicted_once(models, boxes, clip, tmp_path, capsys):
    out, probs = tmp_path / "out.csv", tmp_path / "p.csv"
    line = f"--input {clip} --every 2 --output {out} --probs {probs}"
    assert run(models, boxes, line) == 0
    printed = capsys.readouterr().out
    table, own = pd.read_csv(out), pd.read_csv(probs)
    seen = [(frame, person) for frame in range(0, FRAMES, 2) for person in walk(frame)]
    assert list(zip(table["frame"], table["face"] - 1, strict=True)) == seen
    np.testing.assert_allclose(table["time"], table["frame"] / RATE, atol=0.001)
    assert list(table.columns[:7]) == ["frame", "time", "face", *SIDES]
    for row in table.itertuples():
        left = walk(row.frame)[row.face - 1]
        assert left < row.x0 < row.x1 < left + WIDE and 40 < row.y0 < row.y1 < 200
        assert combine.NAMES[row.code] == f"{row.mask} {row.gender} {row.age}"
    assert (own[["frame", "time", "face"]] == table[["frame", "time", "face"]]).all(axis=None)
    for task, recipe in zip(WORDS, (MaskRecipe, GenderRecipe, AgeRecipe), strict=True):
        shares = own[[f"{task}_{word}" for word in recipe.classes]].to_numpy()
        for face in (1, 2):
            track = table[table["face"] == face]
            assert track[task].nunique() == track[f"{task}_probability"].nunique() == 1
            frames = shares[table["face"] == face]
            assert np.ptp(frames, axis=0).max() > 1e-4, "the frames differ"
            mean = frames.mean(axis=0)
            assert track[task].iloc[0] == recipe.classes[mean.argmax()]
            assert track[f"{task}_probability"].iloc[0] == pytest.approx(mean.max(), abs=2e-6)
    assert "18 frames in 0.9 s, 9 processed" in printed
    assert f"{len(seen)} faces, 3 frames without one\n2 tracks, 0 of them" in printed
    assert f"{len(seen)} rows → {out}" in printed
    assert f"sound → {tmp_path / 'walk.faces.mp4'}\n" in printed
    again = f"{line.replace('out.csv', 'again.csv')} --workers 2 --batch-size 2"
    assert run(models, boxes, again) == 0
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "again.csv"), table, atol=2e-6)


def test_the_annotated_clip_shows_boxes_in_every_frame(models, boxes, clip, tmp_path):
    """Also in frames that were not processed; it is enlarged, so that words fit."""
    drawn = tmp_path / "drawn" / "walk.mkv.mp4"
    line = f"--input {clip} --every 3 --output {tmp_path / 'o.csv'} --draw {drawn.parent}"
    assert run(models, boxes, line) == 0
    found = scan(drawn)
    assert found.shape == (640, 1280) and len(found.times) == FRAMES
    assert found.rate == pytest.approx(RATE, rel=0.01)
    before, after = FrameReader(clip), FrameReader(drawn)
    for number in range(FRAMES):
        plain = cv2.resize(before.read(number), (1280, 640)).astype(int)
        changed = np.abs(after.read(number) - plain).max(axis=2) > 60
        columns = np.flatnonzero(changed.sum(axis=0) > 30) * WIDTH / 1280
        own = [left for person, left in walk(number).items() if number >= 6 * person]
        inside = np.array([(left < columns) & (columns < left + WIDE) for left in own])
        assert inside.any(axis=1).all() if own else not len(columns), number
        assert inside.any(axis=0).all() if own else True, number


def test_a_still_clip_is_predicted_like_a_photo_of_its_frame(models, boxes, people, tmp_path):
    """With several models, a hard vote and mirror images, too."""
    path = write_clip(tmp_path / "still.mkv", [scene(people, {0: 20, 3: 200, 4: 340})] * 3)
    frame = FrameReader(path).read(2)
    cv2.imwrite(str(tmp_path / "frame.png"), frame[:, :, ::-1])
    how = "--mask {models}/m.pt {models}/m2.pt --vote hard --decide argmax --tta flip"
    first = f"--input {path} --every 2 --output {tmp_path / 'clip.csv'} {how}"
    assert run(models, boxes, first) == 0
    other = f"--input {tmp_path / 'frame.png'} --faces all --output {tmp_path / 'photo.csv'} {how}"
    assert run(models, boxes / "other", other) == 0
    rows, photo = pd.read_csv(tmp_path / "clip.csv"), pd.read_csv(tmp_path / "photo.csv")
    assert len(photo) == 3
    last = rows[rows["frame"] == 2].reset_index(drop=True)
    columns = list(photo.columns.drop(["ImageID", "found"]))
    assert len(rows) == 6 and list(last.columns.drop(["frame", "time"])) == columns
    words = [column for column in columns if "probability" not in column and column not in SIDES]
    pd.testing.assert_frame_equal(last[words], photo[words])
    for task in WORDS:
        np.testing.assert_allclose(
            last[f"{task}_probability"], photo[f"{task}_probability"], atol=2e-6
        )
    assert (last[SIDES] - photo[SIDES]).abs().max(axis=None) == 0


def test_a_truncated_clip_is_predicted_as_far_as_it_goes(models, boxes, clip, tmp_path, capsys):
    data = clip.read_bytes()
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(data[: len(data) // 2])
    line = f"--input {cut} --every 2 --output {tmp_path / 'o.csv'}"
    assert run(models, boxes, line) == 2
    error = capsys.readouterr().err
    last = len(scan(cut).times) - 1
    assert error.endswith(f"error: {cut}: cut short: it ends after frame {last}\n")
    frames = pd.read_csv(tmp_path / "o.csv")["frame"]
    assert set(frames) == {n for n in range(0, last + 1, 2) if walk(n)}
    assert len(scan(tmp_path / "cut.faces.mp4").times) == last + 1
    assert run(models, boxes, f"{line} --allow-bad 1") == 0
    assert f"warning: {cut}: cut short" in capsys.readouterr().err


def test_a_clip_without_faces_has_an_empty_table(
    models, boxes, people, tmp_path, monkeypatch, capsys
):
    """With the default name of the table."""
    monkeypatch.chdir(tmp_path)
    path = write_clip(tmp_path / "wall.mp4", [scene(people, {})] * 3)
    assert run(models, boxes, f"--input {path}") == 0
    assert "0 faces, 3 frames without one\n0 tracks" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "faces.csv")
    assert table.empty and list(table.columns[-2:]) == ["age_probability", "code"]
    assert len(scan(tmp_path / "wall.faces.mp4").times) == 3


def test_faces_with_an_output_of_nan_are_empty_and_counted(
    models, boxes, clip, tmp_path, monkeypatch, capsys
):
    calibrated = LoadedModel.calibrated
    monkeypatch.setattr(LoadedModel, "calibrated", lambda *given: calibrated(*given) * torch.nan)
    assert run(models, boxes, f"--input {clip} --every 5 --output {tmp_path / 'o.csv'}") == 2
    assert (
        "5 faces have no prediction: the age model's output isn't a number"
        in capsys.readouterr().err
    )
    table = pd.read_csv(tmp_path / "o.csv")
    assert table["code"].isna().all() and table["x0"].notna().all()
    assert len(scan(tmp_path / "walk.faces.mp4").times) == FRAMES


def test_a_folder_may_have_a_name_like_a_video(models, boxes, clip, people, tmp_path):
    folder = tmp_path / "trip.mp4"
    folder.mkdir()
    shutil.copy(clip, folder)
    cv2.imwrite(str(folder / "photo.png"), scene(people, {}))
    assert run(models, boxes, f"--input {folder} --output {tmp_path / 'o.csv'}") == 0
    assert pd.read_csv(tmp_path / "o.csv")["ImageID"].tolist() == ["photo.png"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--input {clip} --labels x.csv", "is tracked: without --labels"),
        ("--input {clip} --ray", "is tracked: without --ray"),
        ("--input {clip} --faces main", "is tracked: without --faces main"),
        ("--input {clip} --every 0", "--every: '0': expected a whole number from 1"),
        ("--every 2", "--every goes with a video"),
        ("--input {clip} --mask {{models}}/c.pt", "c.pt takes the crop center"),
        ("--input {clip} --output {clip}", "is read here and would be replaced"),
        ("--input {folder}/a.mp4 --draw {folder}", "is read here and would be replaced"),
        ("--input {clip} --output x.csv --probs a.faces.mp4", "both would write"),
        ("--input {clip} --output x.csv --draw {clip}/drawn", "drawn: "),
        ("--input {clip} --output {folder}/none/x.csv", "its folder can't be written"),
        ("--input {folder}/none.mp4", "none.mp4: no such video"),
    ],
)
def test_what_cannot_work_is_reported_before_any_work(
    line, words, models, boxes, clip, tmp_path, monkeypatch, capsys
):
    def no_detector(*_: object) -> None:
        raise AssertionError("the detector was called")

    monkeypatch.setattr(detector, "_detect_scaled", no_detector)
    monkeypatch.chdir(tmp_path)
    for name in ("a.mkv", "a.mp4"):
        shutil.copy(clip, tmp_path / name)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    try:
        status = run(models, boxes, line.format(clip=tmp_path / "a.mkv", folder=tmp_path))
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
