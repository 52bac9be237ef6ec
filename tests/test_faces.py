"""combine.py --faces all and --draw: every face of a photo, none lost, none invented."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import combine
from age.recipe import AgeRecipe
from common.base.errors import UserError
from common.data.layout import Face
from common.faces import detector
from common.faces.cache import Cropper, EveryFaceCropper
from common.faces.crop import CropSpec, crop, shared_detector
from common.faces.detector import Detection, detect, detect_every, overlaps, with_turns
from common.inference import annotate
from common.inference.annotate import annotated, copies
from common.model.recipe import DETECTORS
from gender.recipe import GenderRecipe
from mask.recipe import MaskRecipe
from tests.tiny import save_untrained

WIDTHS = (330, 110, 200)  # px of the people in the crowd, from left to right
WORDS = ("mask", "gender", "age")
LEVEL = (30.0, 40.0), (70.0, 40.0), (50.0, 60.0), (35.0, 80.0), (65.0, 80.0)  # landmarks


@pytest.fixture(scope="module")
def street(faces: tuple[Face, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder: a bad photo, a crowd of three people, two people, and a wall."""
    folder = tmp_path_factory.mktemp("street")
    people = [cv2.imread(str(face.path)) for face in faces if face.view == "normal"]
    cv2.imwrite(str(folder / "b crowd.png"), crowd(people, WIDTHS))
    (folder / "deep").mkdir()
    cv2.imwrite(str(folder / "deep" / "pair.jpg"), crowd(people[3:], (200, 200)))
    cv2.imwrite(str(folder / "wall.png"), np.full((80, 60, 3), 99, np.uint8))
    (folder / "a bad.jpg").write_bytes(b"<html>")
    return folder


def crowd(people: list[np.ndarray], widths: tuple[int, ...]) -> np.ndarray:
    """The first people side by side on grey ground, each as wide as `widths` says."""
    canvas = np.full((460, sum(widths), 3), 128, np.uint8)
    left = 0
    for photo, width in zip(people, widths, strict=False):
        height = width * photo.shape[0] // photo.shape[1]
        small = cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA)
        canvas[:height, left : left + width] = small
        left += width
    return canvas


def read(path: Path) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def no_detector(*_: object) -> None:
    raise AssertionError("the detector was asked")


# Where the faces are


def test_every_face_is_detected_from_left_to_right(street: Path) -> None:
    """Large and small at once, where `detect` is content with the large."""
    found = detect_every(read(street / "b crowd.png"))
    edges = np.cumsum((0, *WIDTHS))
    assert len(found) == 3
    for face, left, right in zip(found, edges[:-1], edges[1:], strict=True):
        assert left < face.box[0] < face.box[2] < right
        assert 0.2 < (face.box[2] - face.box[0]) / (right - left) < 0.8
        assert face.faces == 3 and face.shape == (460, sum(WIDTHS))


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_photos_on_their_side_or_head_are_noticed(faces: tuple[Face, ...], turns: int) -> None:
    """By a detector that is surer after a turn; drawn faces are so even, that some aren't."""
    noticed = []
    for face in [face for face in faces if face.view == "normal"][:8]:
        photo = np.ascontiguousarray(np.rot90(read(face.path), turns))
        found = detect(photo)
        noticed.append(bool(found.unsure and with_turns(photo, found).turned))
    assert sum(noticed) >= 4 if turns else sum(noticed) <= 2


def test_a_photo_on_its_head_is_cropped_as_before_and_said_to_be_doubtful(
    faces: tuple[Face, ...], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried in prediction alone, once, and the result stays in the cache."""
    photo = read(faces[0].path)
    monkeypatch.setattr(
        detector,
        "_main_by_mtcnn",
        lambda image: Detection(image.shape[:2], (9, 9, 99, 99), 0.5, LEVEL),
    )
    surer = Detection((192, 192), (9, 9, 99, 99), 0.99, LEVEL)
    tried = []
    monkeypatch.setattr(detector, "_large_face", lambda image: tried.append(image) or surer)
    cv2.imwrite(str(tmp_path / "head.png"), photo)
    spec = CropSpec("face", 0.0, (48, 48))
    trained = Cropper([spec], cache)(tmp_path / "head.png")
    assert not trained.turned and not tried
    for _ in range(2):
        asked = Cropper([spec], cache, keep=False)(tmp_path / "head.png")
        assert asked.turned and len(tried) == 1
        assert np.array_equal(asked.images[0], trained.images[0])


def test_two_detections_of_a_face_are_one_face(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second look names a face again, nearly where it was, and one that is new.

    The main face is where training has it.
    """
    main = Detection((400, 400), (202.0, 11.0, 241.0, 52.0), 0.8, ((1.0, 1.0),) * 5, 1)
    monkeypatch.setattr(detector, "detect", lambda *_: main)
    looks = [[(10, 10, 60, 60), (200, 10, 240, 50)], [(300, 300, 330, 340), (12, 8, 61, 62)]]

    def named(*_: object) -> tuple[np.ndarray, ...]:
        boxes = np.array(looks.pop(0), dtype=float)
        return boxes, np.full(len(boxes), 0.9), np.zeros((len(boxes), 5, 2))

    monkeypatch.setattr(detector, "_detect_scaled", named)
    found = detect_every(np.zeros((400, 400, 3), np.uint8))
    assert [face.box for face in found] == [
        (10, 10, 60, 60),
        (202, 11, 241, 52),
        (300, 300, 330, 340),
    ]
    assert {face.faces for face in found} == {3}


def test_a_face_that_only_the_main_detection_passes_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sure = Detection((400, 400), (1.0, 1.0, 9.0, 9.0), 0.75, ((1.0, 1.0),) * 5, 1)
    nothing = np.empty((0, 4)), np.empty(0), np.empty((0, 5, 2))
    monkeypatch.setattr(detector, "_detect_scaled", lambda *_: nothing)
    monkeypatch.setattr(detector, "detect", lambda *_: sure)
    assert detect_every(np.zeros((400, 400, 3), np.uint8)) == [sure]


def candidates(*boxes: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a detector returns for `boxes`, each of probability 0.9."""
    return (
        np.array(boxes, float).reshape(-1, 4),
        np.full(len(boxes), 0.9),
        np.ones((len(boxes), 5, 2)),
    )


LEFT, RIGHT = (10.0, 10, 60, 60), (200.0, 200, 260, 260)


@pytest.mark.parametrize(
    ("name", "by_mtcnn", "expected"),
    [
        ("mtcnn", [LEFT], [LEFT]),
        ("mtcnn", [], []),
        ("centerface", [LEFT], [RIGHT]),
        ("both", [LEFT], [LEFT]),
        ("both", [], [RIGHT]),
    ],
)
def test_both_takes_centerface_where_mtcnn_detects_nothing(monkeypatch, name, by_mtcnn, expected):
    monkeypatch.setattr(detector, "_detect_scaled", lambda *_: candidates(*by_mtcnn))
    monkeypatch.setattr(detector.centerface, "find_faces", lambda *_: candidates(RIGHT))
    photo = np.zeros((400, 400, 3), np.uint8)
    assert detector.detect(photo, name).box == (expected[0] if expected else None)
    found = [face.box for face in detect_every(photo, name)]
    together = [LEFT, RIGHT] if name == "both" and by_mtcnn else expected or [None]
    assert found == together


def test_one_face_that_both_detectors_detect_is_one_face(monkeypatch):
    near = (12.0, 8.0, 61.0, 62.0)
    monkeypatch.setattr(detector, "_detect_scaled", lambda *_: candidates(LEFT))
    monkeypatch.setattr(detector.centerface, "find_faces", lambda *_: candidates(near, RIGHT))
    faces = detect_every(np.zeros((400, 400, 3), np.uint8), "both")
    assert [face.box for face in faces] == [LEFT, RIGHT]


@pytest.mark.parametrize("scale", [1, 4])
def test_centerfaces_boxes_are_in_pixels_of_the_photo(monkeypatch, scale):
    """Large photos are reduced for the network."""

    def find(image: np.ndarray, _: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        assert max(image.shape) <= 1024
        high, wide = image.shape[:2]
        boxes, probabilities, points = candidates((wide / 4, high / 4, wide / 2, high / 2))
        return boxes, probabilities, points * wide / 4

    monkeypatch.setattr(detector.centerface, "find_faces", find)
    found = detector.detect(np.zeros((400 * scale, 800 * scale, 3), np.uint8), "centerface")
    assert found.box == tuple(scale * x for x in (200, 100, 400, 200))
    assert found.landmarks[0] == (200 * scale, 200 * scale)


def test_each_model_has_the_face_of_its_own_detector(faces, cache, monkeypatch):
    """One photo is cut by MTCNN's box for one model and by CenterFace's for another."""
    ours = (40.0, 60.0, 120.0, 160.0)
    monkeypatch.setattr(detector.centerface, "find_faces", lambda *_: candidates(ours))
    specs = [
        CropSpec("face", 0, (32, 32)),
        CropSpec("face", 0, (32, 32), detector="centerface"),
        CropSpec("center", 0, (32, 32)),
    ]
    together = Cropper(specs, cache)(faces[0].path)
    alone = [Cropper([spec], cache / "other")(faces[0].path) for spec in specs]
    for image, single in zip(together.images, alone, strict=True):
        np.testing.assert_array_equal(image, single.images[0])
    assert not np.array_equal(together.images[0], together.images[1])
    assert (together.box, alone[1].box) == (alone[0].box, ours)
    assert shared_detector(specs) == "both"
    assert shared_detector(specs[1:]) == "centerface"
    assert shared_detector(specs[2:]) == "mtcnn"


def test_a_detectors_settings_name_it():
    settings = [detector.detector_for(name) for name in (None, *DETECTORS)]
    assert [detector.detector_named(each) for each in settings] == [None, *DETECTORS]
    assert len({json.dumps(each) for each in settings}) == len(settings), "each has its own cache"


SIDE = st.integers(1, 40)


@given(x=st.integers(-9, 9), y=st.integers(-9, 9), wide=SIDE, high=SIDE)
def test_overlap_counted_in_pixels(x: int, y: int, wide: int, high: int) -> None:
    fixed, moved = np.zeros((2, 60, 60), bool)
    fixed[10:30, 10:35] = True
    moved[10 + y : 10 + y + high, 10 + x : 10 + x + wide] = True
    boxes = np.array([(10, 10, 35, 30)]), np.array([(10 + x, 10 + y, 10 + x + wide, 10 + y + high)])
    assert overlaps(*boxes)[0, 0] == pytest.approx((fixed & moved).sum() / (fixed | moved).sum())


def test_faces_are_cut_as_each_alone_and_searched_once(
    street: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = [CropSpec("eyes", 0.3, (48, 48)), CropSpec("face", 0, (32, 40))]
    photo = read(street / "b crowd.png")
    anew = EveryFaceCropper(specs, cache)(street / "b crowd.png")
    for cut, face in zip(anew, detect_every(photo), strict=True):
        assert cut.detected and cut.box == face.box
        for image, spec in zip(cut.images, specs, strict=True):
            assert image.tobytes() == crop(photo, face, spec).tobytes()
    with monkeypatch.context() as patch:
        patch.setattr("common.faces.cache.detect_every", no_detector)
        again = EveryFaceCropper(specs, cache)(street / "b crowd.png")
    assert [c.region for c in again] == [c.region for c in anew]
    assert list(anew[0].seconds) == ["read", "decode", "detect", "crop"]
    assert list(again[0].seconds) == ["read", "decode", "crop"]
    assert not any(c.seconds for c in (*anew[1:], *again[1:])), "a photo counts once"
    (record,) = cache.rglob("*.json")
    record.write_text(record.read_text().replace('"faces": ', '"faces": 1'))
    mended = EveryFaceCropper(specs, cache)(street / "b crowd.png")
    assert [c.box for c in mended] == [c.box for c in anew]


# The command


@pytest.fixture(scope="module")
def models(faces: tuple[Face, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three untrained models that look at faces, and one, c.pt, at the centre."""
    folder = tmp_path_factory.mktemp("models")
    for recipe, name, method in ((MaskRecipe, "m", "eyes"), (GenderRecipe, "g", "eyes"),
                                 (AgeRecipe, "a", "face"), (MaskRecipe, "c", "center")):  # fmt: skip
        save_untrained(recipe, folder / f"{name}.pt", faces, crop=method)
    return folder


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that these tests share."""
    return tmp_path_factory.mktemp("cache")


def run(models: Path, boxes: Path, line: str, *words: str | Path) -> int:
    """combine.py with these models and flags; `words` may hold blanks."""
    files = [f"--{task}={models / task[0]}.pt" for task in WORDS]
    how = f"--device cpu --workers 0 --cache-dir {boxes}".split()
    return combine.main([*files, *how, *line.split(), *map(str, words)])


def test_a_row_for_each_face_and_none_lost(models, boxes, street, tmp_path, capsys):
    """Of a folder, in its order, whatever the batch size; what is bad is named and empty."""
    out = tmp_path / "out.csv"
    line = f"--faces all --input {street} --output {out} --probs {tmp_path / 'p.csv'}"
    assert run(models, boxes, f"{line} --draw {tmp_path / 'drawn'}") == 2
    printed, error = capsys.readouterr()
    table, shares = pd.read_csv(out), pd.read_csv(tmp_path / "p.csv")
    assert table["ImageID"].tolist() == (
        ["a bad.jpg"] + ["b crowd.png"] * 3 + ["deep/pair.jpg"] * 2 + ["wall.png"]
    )
    assert table["face"].fillna(-1).tolist() == [-1, 1, 2, 3, 1, 2, 0]
    assert table["found"].fillna("").tolist() == ["", True, True, True, True, True, False]
    assert "a bad.jpg: not a photo" in error and "1 of 4 photos" in error
    assert pd.read_csv(f"{out}.failed.csv")["ImageID"].tolist() == ["a bad.jpg"]
    assert table.iloc[0, 2:].isna().all()
    good = table.iloc[1:]
    for row, share in zip(good.itertuples(), shares.iloc[1:].to_dict("records"), strict=True):
        assert share["ImageID"] == row.ImageID and share["face"] == row.face
        assert combine.NAMES[int(row.code)] == f"{row.mask} {row.gender} {row.age}"
        for task in WORDS:
            word = getattr(row, task)
            assert getattr(row, f"{task}_probability") == share[f"{task}_{word}"] > 1 / 4
    crowded = detect_every(read(street / "b crowd.png"))
    sides = good[["x0", "y0", "x1", "y1"]].to_numpy()
    np.testing.assert_allclose(sides[:3], [face.box for face in crowded], atol=0.5)
    assert "4 photos: 5 faces, 1 photo without one" in printed and f"7 rows → {out}" in printed
    drawn = sorted(p.relative_to(tmp_path / "drawn") for p in (tmp_path / "drawn").rglob("*.jpg"))
    assert list(map(str, drawn)) == ["b crowd.png.jpg", "deep/pair.jpg", "wall.png.jpg"]
    few = f"{line.replace('out.csv', 'few.csv')} --batch-size 2 --allow-bad 1"
    assert run(models, boxes, few) == 0
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "few.csv"), table, atol=2e-6)


def test_of_the_main_face_alone_a_copy_is_drawn(models, boxes, street, tmp_path, capsys):
    """The largest of the crowd, which stands left; the table is as without the copy."""
    line = f"--input {street} --allow-bad 1"
    assert run(models, boxes, f"{line} --output {tmp_path / 'plain.csv'}") == 0
    out = tmp_path / "drawn" / "b crowd.png.jpg"
    assert run(models, boxes, f"{line} --output {tmp_path / 'o.csv'} --draw {out.parent}") == 0
    assert f"3 photos drawn → {out.parent}" in capsys.readouterr().out
    assert (tmp_path / "o.csv").read_text() == (tmp_path / "plain.csv").read_text()
    drawn = read(out).astype(int)
    before = cv2.resize(read(street / "b crowd.png"), drawn.shape[1::-1])
    changed = np.abs(drawn - before).max(axis=2) > 60
    columns = np.flatnonzero(changed.sum(axis=0) > 20) * sum(WIDTHS) / before.shape[1]
    assert 0 < columns.min() < 150 < columns.max() < WIDTHS[0]


def test_one_photos_faces_are_printed(models, boxes, street, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(models, boxes, "--faces all --input", street / "b crowd.png") == 0
    lines = capsys.readouterr().out.splitlines()
    place = lines.index("b crowd.png: 3 faces")
    assert [line.split()[0] for line in lines[place + 1 :]] == ["1", "2", "3", "time:"]
    assert run(models, boxes, "--faces all --input", street / "wall.png") == 0
    assert "wall.png: no face detected: centre crop" in capsys.readouterr().out
    assert run(models, boxes, "--faces all --input", street / "a bad.jpg") == 2
    assert "a bad.jpg: not a photo" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_default_table_has_a_name_of_its_own(
    models, boxes, street, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    run(models, boxes, f"--faces all --input {street / 'deep'}")
    assert [file.name for file in tmp_path.iterdir()] == ["faces.csv"]
    assert "2 rows → faces.csv" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--faces all --labels x.csv", "is needed for --labels"),
        ("--faces all --held-out", "is needed for --held-out"),
        ("--draw x --held-out", "--draw goes with photos to predict"),
        ("--faces all --input {street} --mask {models}/c.pt", "c.pt takes the crop center"),
        ("--input {street} --draw {street}/drawn", "/drawn: lies in the folder of photos"),
        ("--input {street}/wall.png.jpg --draw {street}", "the photos themselves lie there"),
        ("--input {street}/wall.png --draw {street}/wall.png", "wall.png: "),
        ("--faces some", "--faces: invalid choice: 'some'"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(
    line, words, models, boxes, street, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(detector, "_detect_scaled", no_detector)
    there = tmp_path / "street"
    shutil.copytree(street, there)
    shutil.copy(there / "deep" / "pair.jpg", there / "wall.png.jpg")
    before = sorted(there.rglob("*"))
    try:
        status = run(models, boxes, line.format(street=there, models=models))
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    assert words in capsys.readouterr().err
    assert sorted(there.rglob("*")) == before


def test_finished_tables_are_not_of_faces(capsys):
    assert combine.main(["--faces", "all", "--submissions", "a.csv", "b.csv"]) == 2
    assert "is needed for --submissions" in capsys.readouterr().err


# The drawing

BLACK = np.zeros((300, 400, 3), np.uint8)


def colours(image: Image.Image) -> set[str]:
    return {
        f"#{r:02X}{g:02X}{b:02X}" for _, (r, g, b) in image.getcolors(image.width * image.height)
    }


def test_a_small_photo_is_enlarged_so_that_words_fit() -> None:
    image = annotated(BLACK, np.array([(10, 10, 40, 50)]), [(["wear", "male"], "#0072B2")])
    assert image.size == (1280, 960)
    assert {"#0072B2", "#FFFFFF"} <= colours(image)  # white letters on a dark colour
    large = np.zeros((1500, 3000, 3), np.uint8)
    image = annotated(large, np.array([(10, 10, 400, 500)]), [(["wear"], "#F0E442")])
    assert image.size == (3000, 1500) and "#FFFFFF" not in colours(image)


@given(
    corners=st.lists(st.tuples(st.integers(-50, 390), st.integers(-50, 290)), max_size=12),
    side=st.integers(5, 150),
)  # fmt: skip
def test_labels_stay_in_the_photo_and_off_other_faces_where_there_is_room(
    corners: list[tuple[int, int]], side: int
) -> None:
    extent = 60.0, 40.0
    taken = [(x, y, x + side, y + side) for x, y in corners]
    for frame in list(taken):
        spot = annotate._place(frame, extent, (400, 300), taken)
        assert 0 <= spot[0] < spot[2] <= 400 and 0 <= spot[1] < spot[3] <= 300
        assert (spot[2] - spot[0], spot[3] - spot[1]) == extent
        taken.append(spot)
    if len(corners) == 1 and 0 < corners[0][0] < 300 and 0 < corners[0][1] < 100:
        assert not annotate._overlap(*taken)


def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    photo = tmp_path / "x.jpg"
    with pytest.raises(UserError, match="would lie outside of it"):
        copies(tmp_path / "drawn", ["../y.jpg"], [photo])
    assert not (tmp_path / "drawn").exists()
    assert copies(tmp_path / "drawn", ["b/X.JPG"], [photo]) == [tmp_path / "drawn" / "b" / "X.JPG"]


def test_no_copy_takes_the_place_of_another(tmp_path: Path) -> None:
    names = ["x", "x.png", "x.jpg", "x.png.jpg", "x.jpg.jpg", "x.webp"]
    files = copies(tmp_path, names, [Path(name) for name in names])
    assert [file.name for file in files] == [
        "x.jpg.jpg.jpg", "x.png.jpg.jpg", "x.jpg", "x.png.jpg", "x.jpg.jpg", "x.webp.jpg",
    ]  # fmt: skip


def test_copies_replace_copies_and_no_photo(tmp_path):
    """A folder of photos of the same names, which this run doesn't read, stays as it is."""
    (tmp_path / "photo.jpg").write_bytes(b"a photo of somebody")
    with pytest.raises(UserError, match=r"photo.jpg is there already and isn't a picture of ours"):
        copies(tmp_path, ["photo.jpg"], [tmp_path / "elsewhere" / "photo.jpg"])
    image = Image.new("RGB", (64, 64))
    image.save(tmp_path / "photo.jpg", comment=annotate.MARK)
    assert copies(tmp_path, ["photo.jpg"], [tmp_path / "elsewhere" / "photo.jpg"])
