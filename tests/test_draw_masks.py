"""common/data/draw_masks.py and masks.py: masks lie where they should, and tell-tales nowhere."""

import csv
import io
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from common.faces.crop import Detection
from common.faces.decode import BadPhoto, decode
from common.tools import draw_masks
from common.tools.demo.drawing import VIEWS
from common.tools.masks import WRONG, HeadPose, draw_mask, head_of
from common.tools.occluders import draw_occluder

SHAPE = 256, 192
BOX = (42.0, 46.0, 150.0, 196.0)
LANDMARKS = ((70.0, 104.0), (122.0, 104.0), (96.0, 134.0), (76.0, 156.0), (116.0, 156.0))
BARE = Detection(SHAPE, BOX, 1.0, LANDMARKS, 1)
EYES = ((70, 104), (122, 104))
NOSE, MOUTH, CHIN = (96, 134), (96, 156), (96, 186)


def skin(brightness: float = 1.0, grey: bool = False) -> np.ndarray:
    """Grain of a face's colours, so that whatever is drawn there changes it."""
    rng = np.random.default_rng(0)
    colour = np.float64((150, 150, 150) if grey else (190, 140, 115)) * brightness
    return np.clip(colour + rng.normal(0, 3, (*SHAPE, 1)), 0, 255).astype(np.uint8)


def drawn(wear: str, seed: int, photo: np.ndarray | None = None) -> np.ndarray:
    photo = skin() if photo is None else photo
    return draw_mask(photo, BARE, wear, np.random.default_rng(seed))


@pytest.mark.parametrize(
    ("wear", "nose", "mouth", "chin"),
    [("right", 1, 1, 1), ("under nose", 0, 1, 1), ("on chin", 0, 0, 1), ("over mouth", 0, 1, 0)],
)
def test_what_a_mask_covers_is_what_its_name_says(wear, nose, mouth, chin):
    """Whatever its kind and size: of 5 x 5 pixels about each place, all or hardly one."""
    photo = skin()
    changed = np.mean([(drawn(wear, seed) != photo).any(axis=2) for seed in range(30)], axis=0)
    places = (NOSE, nose), (MOUTH, mouth), (CHIN, chin), *((eye, 0) for eye in EYES)
    for (x, y), expected in places:
        spot = changed[y - 2 : y + 3, x - 2 : x + 3]
        assert spot.mean() == pytest.approx(expected, abs=0.1), (x, y)


@pytest.mark.parametrize("wear", ["right", *WRONG])
def test_nothing_changes_away_from_the_lower_face(wear):
    """No photo-wide change of light or noise may tell masked views from bare ones."""
    photo, changed = skin(), np.zeros(SHAPE, bool)
    for seed in range(10):
        changed |= (drawn(wear, seed) != photo).any(axis=2)
    rows, columns = changed.nonzero()
    assert rows.min() > 100 and rows.max() < 220
    assert columns.min() > 25 and columns.max() < 167


def test_objects_hide_a_part_of_the_lower_face_and_leave_the_eyes():
    """Not every one the mouth, but each of them something; a grey photo stays grey."""
    changed = np.array(
        [
            (draw_occluder(skin(), BARE, np.random.default_rng(seed)) != skin()).any(axis=2)
            for seed in range(60)
        ]
    )
    face = np.s_[110:200, 50:142]
    assert all(part[face].any() for part in changed)
    assert 0.1 < changed[:, face[0], face[1]].mean() < 0.6
    for x, y in EYES:
        assert changed[:, y - 4 : y + 4, x - 4 : x + 4].mean() < 0.1
    assert 0.2 < changed[:, MOUTH[1], MOUTH[0]].mean() < 0.8
    for seed in range(10):
        grey = draw_occluder(skin(grey=True), BARE, np.random.default_rng(seed))
        assert np.ptp(grey, axis=2).max() == 0
    with pytest.raises(BadPhoto):
        draw_occluder(skin(), Detection(SHAPE, BOX, 1.0, None, 1), np.random.default_rng(0))


def test_cloth_takes_the_photos_light_and_has_no_hue_where_the_photo_has_none():
    x, y = MOUTH
    spot = np.s_[y - 8 : y + 8, x - 8 : x + 8]
    for seed in range(6):
        bright, dark = (drawn("right", seed, skin(level))[spot].mean() for level in (1.0, 0.4))
        assert dark < 0.75 * bright
        assert np.ptp(drawn("right", seed, skin(grey=True)), axis=2).max() == 0


@settings(max_examples=50)
@given(
    roll=st.floats(-0.6, 0.6), yaw=st.floats(-0.6, 0.6), pitch=st.floats(-0.3, 0.3),
    around=st.floats(-0.6, 0.6), down=st.floats(0.1, 2.0),
)  # fmt: skip
def test_unrolling_undoes_bending(roll, yaw, pitch, around, down):
    across = np.array((np.cos(roll), np.sin(roll)))
    head = HeadPose(np.array((90.0, 110.0)), across, 60.0, 58.0, yaw, pitch, 1.66)
    ((x, y),), (seen,) = head.placed([(around, down)])
    back = head.unrolled(np.float32([[x]]), np.float32([[y]]))
    assert (back[2].item() > 0) >= seen
    if seen and back[2].item() > 0.35:
        assert np.allclose((back[0].item(), back[1].item()), (around, down), atol=0.05)


def turned(landmarks: tuple, angle: float) -> Detection:
    cos, sin = np.cos(angle), np.sin(angle)
    about = (np.array(landmarks) - NOSE) @ np.array([[cos, sin], [-sin, cos]]) + NOSE
    return Detection(SHAPE, BOX, 1.0, tuple(map(tuple, about.tolist())), 1)


def test_the_head_follows_the_landmarks():
    """It leans with the eyes, and turns to where the nose is: by as much to either side."""
    left, right, (x, y), *mouth = LANDMARKS
    aside = [(left, right, (x + shift, y), *mouth) for shift in (-6, 0, 6)]
    yaws = [head_of(turned(landmarks, 0)).yaw for landmarks in aside]
    assert yaws[1] == 0 and yaws[2] == -yaws[0] > 0.1
    leaning = head_of(turned(aside[2], 0.3))
    assert leaning.yaw == pytest.approx(yaws[2], abs=1e-6)
    assert leaning.across == pytest.approx((np.cos(0.3), np.sin(0.3)))


@pytest.mark.parametrize(
    ("landmarks", "reason"),
    [
        (None, "no face found"),
        (tuple((x / 10, y / 10) for x, y in LANDMARKS), "eyes 5 pixels apart"),
        (((70, 104), (122, 104), (120, 134), (76, 156), (116, 156)), "turned too far"),
        (((70, 104), (122, 104), (96, 134), (76, 110), (116, 110)), "turned too far"),
    ],
)
def test_faces_that_no_mask_fits_on_are_refused(landmarks, reason):
    with pytest.raises(BadPhoto, match=reason):
        head_of(Detection(SHAPE, BOX, 1.0, landmarks, 1))


def jpeg(photo: np.ndarray, quality: int, sampling: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "JPEG", quality=quality, subsampling=sampling)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(("quality", "sampling"), [(60, 2), (85, 2), (95, 0)])
def test_views_of_a_jpeg_photo_are_compressed_as_it_is(mode, quality, sampling):
    """Blocks without mask come out as they went in; saved at quality 95, they wouldn't."""
    texture = cv2.GaussianBlur(np.random.default_rng(1).normal(0, 60, (*SHAPE, 3)), (0, 0), 2)
    photo = np.asarray(
        Image.fromarray(np.clip(skin() + texture, 0, 255).astype(np.uint8)).convert(mode)
    )
    source = jpeg(photo, quality, sampling)
    bare = decode(source)
    suffix, data = draw_masks.encoded(drawn("right", 3, bare), source)
    again = decode(data)
    assert suffix == ".jpg" and Image.open(io.BytesIO(data)).mode == mode
    far = np.abs(again.astype(int) - bare)[:80]
    assert far.mean() < 0.25 and far.max() <= 8
    assert np.abs(again.astype(int) - bare)[MOUTH[1], MOUTH[0]].max() > 0
    tables = [Image.open(io.BytesIO(file)).quantization for file in (source, data)]
    assert tables[0] == tables[1]


def test_views_of_other_formats_lose_nothing():
    file, view = io.BytesIO(), drawn("right", 3)
    Image.fromarray(skin()).save(file, "PNG")
    suffix, data = draw_masks.encoded(view, file.getvalue())
    assert suffix == ".png" and np.array_equal(decode(data), view)


@pytest.fixture(scope="module")
def source(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six drawn people, two of whom have no face or half a photo; read only."""
    home = tmp_path_factory.mktemp("bare")
    people = sorted((data / "train" / "images").iterdir())[:6]
    for person in people:
        shutil.copytree(person, home / "train" / "images" / person.name)
    rows = (data / "train" / "train.csv").read_text().splitlines()
    chosen = [row for row in rows[1:] if row.endswith(tuple(f",{p.name}" for p in people))]
    (home / "train" / "train.csv").write_text("\n".join([rows[0], *chosen]) + "\n")
    photos = [home / "train" / "images" / person.name / "normal.jpg" for person in people]
    photos[0].write_bytes(jpeg(np.full((*SHAPE, 3), 120, np.uint8), 90, 2))
    photos[1].write_bytes(photos[1].read_bytes()[:5000])
    return home


def command(*words: object) -> int:
    return draw_masks.main([*map(str, words), "--workers", "0"])


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_every_bare_face_gets_nine_views(source, tmp_path, cache, capsys):
    """With the real detector, on drawn people; who can't have masks is named and stays bare."""
    target, sheet = tmp_path / "drawn", tmp_path / "sheet.png"
    assert command(source, target, "--cache-dir", cache, "--sheet", sheet) == 0
    printed = capsys.readouterr().out
    images = sorted((target / "train" / "images").iterdir())
    names = [sorted(path.stem for path in person.iterdir()) for person in images]
    assert names == [["normal"]] * 2 + [sorted([*VIEWS, "incorrect_mask2", "normal2"])] * 4
    assert f"{images[0].name}: no face found" in printed
    assert f"{images[1].name}: damaged" in printed
    assert printed.splitlines()[-1] == f"{target / 'train'}: 38 photos of 6 people"
    for person in images:
        origin = source / "train" / "images" / person.name / "normal.jpg"
        assert (person / "normal.jpg").read_bytes() == origin.read_bytes()
    for person in images[2:]:
        assert len({path.read_bytes() for path in person.iterdir()}) == 9
    assert cv2.imread(str(sheet)).shape[:2] == (4 * 192, 9 * 144)
    with (target / "train" / "train.csv").open() as table:
        assert [row["path"] for row in csv.DictReader(table)] == [person.name for person in images]


def test_a_persons_masks_depend_on_seed_and_key_alone(source, tmp_path, cache):
    """Not on who else is there, nor on the number of processes; views that are there stay."""
    first, second = tmp_path / "first", tmp_path / "second"
    assert command(source, first, "--cache-dir", cache, "--seed", 5) == 0
    shutil.copytree(first, second)
    images = sorted((second / "train" / "images").iterdir())
    for path in images[3].iterdir():
        if path.stem != "normal":
            path.unlink()
    added = draw_masks.add_views(second, seed=5, cache_dir=cache, workers=1)
    assert (added.people, added.photos, added.own) == (1, 8, 3)
    assert contents(first) == contents(second)
    assert command(source, second, "--cache-dir", cache, "--seed", 6, "--overwrite") == 0
    one, other = (
        contents(folder / "train" / "images" / images[3].name) for folder in (first, second)
    )
    assert sum(one[name] != other[name] for name in one) == 8


def test_mistakes_are_told_before_anything_is_drawn(source, data, tmp_path, capsys):
    target, bare = tmp_path / "drawn", tmp_path / "bare"
    (target / "train").mkdir(parents=True)
    (target / "train" / "kept").touch()
    shutil.copytree(data / "train", bare / "train")
    for photo in bare.rglob("normal.jpg"):
        photo.unlink()
    for words, message in (
        ((source, target), "exists already"),
        ((source, source, "--overwrite"), "give another folder"),
        ((source / "train", source, "--overwrite"), "give another folder"),
        ((bare, tmp_path / "new"), "nobody has a photo called normal"),
        ((tmp_path / "none", tmp_path / "new"), "no training data here"),
        ((source, tmp_path / "new", "--sheet", tmp_path / "sheet.jpg"), "ends in .png"),
        ((source, tmp_path / "new", "--sheet", tmp_path / "none" / "a.png"), "can't be written"),
    ):
        assert command(*words) == 2
        assert message in capsys.readouterr().err
    assert [path.name for path in (target / "train").iterdir()] == ["kept"]
    assert not (tmp_path / "new").exists()
