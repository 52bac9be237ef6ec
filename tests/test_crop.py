"""common/faces/crop.py and cache.py: the crop's region and pixels, and the cache."""

import errno
import os
import stat
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.base.errors import UserError
from common.data.dataset import FaceDataset, to_tensor
from common.data.layout import Face
from common.faces import crop, detector, mtcnn
from common.faces.cache import Cropper, usable_cache
from common.faces.crop import CropSpec, cut, region
from common.faces.decode import BadPhoto, decode
from common.faces.detector import Detection, detect
from common.model.loaded import LoadedModel
from common.tools import purge

FACE = CropSpec("face", 0.3, (64, 64))
CENTER = CropSpec("center", 0.3, (64, 64))
NOISE = np.random.default_rng(0).integers(0, 256, (60, 40, 3), dtype=np.uint8)


def read(face: Face) -> np.ndarray:
    return decode(face.path.read_bytes())


def write(path: Path, image: np.ndarray) -> Path:
    cv2.imwrite(str(path), image[:, :, ::-1])
    return path


@pytest.mark.parametrize("method", ["face", "eyes"])
def test_grabcut_keeps_the_face_and_blackens_what_lies_behind(
    method: str, faces: tuple[Face, ...]
) -> None:
    """A drawn person's face is a quarter of the crop or more, and the corners above are wall.

    GrabCut takes some foreheads for wall, so what is kept of a face counts over several people.
    """
    spec = CropSpec(method, 1.0, (96, 96), background="grabcut")
    kept = []
    for photo in [read(face) for face in faces if face.view == "normal"][:6]:
        found = detect(photo)
        image = crop.crop(photo, found, spec)
        plain = crop.crop(photo, found, CropSpec(method, 1.0, (96, 96)))
        x0, y0, x1, y1 = crop.face_in(found, spec)
        kept.append((image[y0:y1, x0:x1] == plain[y0:y1, x0:x1]).all(axis=2).mean())
        black = ~image.any(axis=2)
        assert 0.1 < black.mean() < 0.9 and black[:8, :8].mean() + black[:8, -8:].mean() > 1
        assert (image[~black] == plain[~black]).all()
        assert np.array_equal(image, crop.crop(photo, found, spec)), "its random start is seeded"
    assert np.median(kept) > 0.85 and min(kept) > 0.5


def test_grabcut_asks_for_the_face_even_of_a_centre_crop(
    faces: tuple[Face, ...], cache: Path
) -> None:
    spec = CropSpec("center", 0, (64, 64), background="grabcut")
    assert Cropper([spec], cache)(faces[0].path).detected is not None


@given(st.integers(2, 40), st.integers(2, 40))
def test_grabcut_survives_a_photo_without_a_face(height: int, width: int) -> None:
    spec = CropSpec("none", 0, (32, 32), background="grabcut")
    image = crop.crop(np.zeros((height, width, 3), np.uint8), Detection((height, width)), spec)
    assert image.shape == (32, 32, 3) and image.dtype == np.uint8


@pytest.mark.parametrize("box", [None, (56.0, 56.0, 168.0, 168.0)], ids=["no face", "a face"])
def test_grabcut_leaves_photos_of_one_colour_as_they_are(
    box: tuple[float, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes a minute on them."""
    monkeypatch.delattr(crop.cv2, "grabCut")
    photo, size = np.full((224, 224, 3), 200, np.uint8), (224, 224)
    spec = CropSpec("none", 0, size, background="grabcut")
    assert np.array_equal(crop.crop(photo, Detection(size, box), spec), photo)


def no_detector(_: np.ndarray) -> Detection:
    raise AssertionError("the detector was asked again")


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def tree(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Where a crop lies


SEEN = Detection((512, 384), box=(100, 120, 200, 280), probability=0.9, faces=1)
UNSEEN = Detection((512, 384))


@pytest.mark.parametrize(
    ("detection", "spec", "expected"),
    [
        (SEEN, CropSpec("face", 0, (224, 224)), (70, 120, 230, 280)),
        (SEEN, CropSpec("face", 0.5, (224, 224)), (30, 80, 270, 320)),
        (SEEN, CropSpec("face", 0, (200, 100)), (70, 40, 230, 360)),
        (SEEN, CropSpec("face", 0, (100, 200)), (-10, 120, 310, 280)),
        (SEEN, CropSpec("center", 0.5, (224, 224)), (42, 106, 342, 406)),
        (UNSEEN, CropSpec("face", 0.5, (224, 224)), (42, 106, 342, 406)),
        (UNSEEN, CropSpec("face", 0.5, (400, 300)), (42, 56, 342, 456)),
        (Detection((384, 512)), CropSpec("face", 0, (224, 224)), (106, 42, 406, 342)),
        (Detection((128, 96)), CropSpec("center", 0, (32, 32)), (10, 26, 85, 101)),
        (SEEN, CropSpec("none", 0.5, (224, 224)), (0, 0, 384, 512)),
        (SEEN, CropSpec("center", 0, (96, 96), center=(350, 350)), (17, 81, 367, 431)),
        (SEEN, CropSpec("center", 0, (412, 244), center=(412, 244)), (70, 50, 314, 462)),
        (UNSEEN, CropSpec("face", 0, (96, 96), center=(412, 244)), (70, 50, 314, 462)),
        (
            Detection((256, 192)),
            CropSpec("center", 0, (96, 96), center=(412, 244)),
            (35, 25, 157, 231),
        ),
    ],
)
def test_region(detection: Detection, spec: CropSpec, expected: tuple[int, int, int, int]) -> None:
    assert region(detection, spec) == expected


EDGE = st.floats(-500, 1500)
SIDES = st.integers(32, 400)


@given(
    corner=st.tuples(EDGE, EDGE), extent=st.tuples(st.floats(0, 900), st.floats(0, 900)),
    margin=st.floats(-0.5, 3), size=st.tuples(SIDES, SIDES),
    shape=st.tuples(st.integers(20, 1200), st.integers(20, 1200)),
)  # fmt: skip
def test_a_region_holds_the_box_in_the_inputs_proportion_and_touches_the_photo(
    corner: tuple[float, float],
    extent: tuple[float, float],
    margin: float,
    size: tuple[int, int],
    shape: tuple[int, int],
) -> None:
    box = (*corner, corner[0] + extent[0], corner[1] + extent[1])
    x0, y0, x1, y1 = region(Detection(shape, box=box), CropSpec("face", margin, size))
    side = max(extent) * (1 + margin)
    assert min(x1 - x0, y1 - y0) == max(2, round(side))
    if side > 2:
        assert (x1 - x0) * size[0] == pytest.approx((y1 - y0) * size[1], abs=max(size))
    assert x0 < shape[1] and y0 < shape[0] and x1 > 0 and y1 > 0
    inside = 0 <= (box[0] + box[2]) / 2 <= shape[1] and 0 <= (box[1] + box[3]) / 2 <= shape[0]
    if inside and margin >= 0:
        assert x0 - 1.5 <= box[0] and y0 - 1.5 <= box[1]
        assert x1 + 1.5 >= box[2] and y1 + 1.5 >= box[3]


# What a crop shows


@given(
    x=st.integers(-80, 39), y=st.integers(-90, 59),
    width=st.integers(2, 90), height=st.integers(2, 90),
)  # fmt: skip
def test_a_cut_of_equal_size_is_the_photo_with_its_edge_repeated(
    x: int, y: int, width: int, height: int
) -> None:
    part = x, y, max(x + width, 1), max(y + height, 1)
    size = part[3] - y, part[2] - x
    padded = np.pad(NOISE, ((200, 200), (200, 200), (0, 0)), mode="edge")
    expected = padded[200 + y : 200 + part[3], 200 + x : 200 + part[2]]
    np.testing.assert_array_equal(cut(NOISE, part, size), expected)


def test_a_cut_is_scaled_to_height_and_width() -> None:
    assert cut(NOISE, (-5, 3, 70, 44), (32, 48)).shape == (32, 48, 3)


def test_shrinking_averages_and_growing_is_smooth() -> None:
    shrunk = cut(NOISE, (0, 0, 40, 60), (15, 10))
    means = NOISE.reshape(15, 4, 10, 4, 3).mean(axis=(1, 3))
    assert np.abs(shrunk - means).max() <= 0.5
    steps = np.repeat(np.array([0, 200], np.uint8), 10)[None, :, None].repeat(20, 0).repeat(3, 2)
    grown = cut(steps, (0, 0, 20, 20), (200, 200)).astype(int)
    assert np.abs(np.diff(grown, axis=1)).max() < 60 and grown.min() == 0


# Level eyes


def two_eyes(left: tuple[float, float], right: tuple[float, float]) -> tuple[np.ndarray, Detection]:
    """A photo of a red and a green spot at these places, and what a detector would say of it."""
    rows, columns = np.mgrid[:300, :260] + 0.5
    photo = np.zeros((300, 260, 3), np.uint8)
    for channel, (x, y) in enumerate((left, right)):
        spot = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 50)
        photo[:, :, channel] = (250 * spot).round()
    x, y = np.add(left, right) / 2
    half = np.hypot(*np.subtract(right, left)) / crop.EYES["distance"] / 2
    box = x - half, y - half * 0.8, x + half, y + half * 1.2
    landmarks = (left, right, (x, y), (x, y), (x, y))
    return photo, Detection(photo.shape[:2], box=box, probability=1.0, landmarks=landmarks, faces=1)


def middle_of(channel: np.ndarray) -> tuple[float, float]:
    """The centre of brightness, (x, y), where a pixel's centre is at a half."""
    rows, columns = np.mgrid[: channel.shape[0], : channel.shape[1]] + 0.5
    return np.average(columns, weights=channel), np.average(rows, weights=channel)


@given(
    middle=st.tuples(st.floats(115, 145), st.floats(125, 175)), distance=st.floats(40, 110),
    angle=st.floats(-80, 80), margin=st.floats(-0.3, 2),
    size=st.sampled_from([(96, 96), (200, 200), (300, 200), (96, 128), (401, 301)]),
)  # fmt: skip
def test_the_eyes_are_level_and_always_at_one_place(
    middle: tuple[float, float],
    distance: float,
    angle: float,
    margin: float,
    size: tuple[int, int],
) -> None:
    """Within half a pixel, however the face is tilted and whether the crop shrinks or grows."""
    away = distance / 2 * np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
    photo, found = two_eyes(tuple(middle - away), tuple(middle + away))
    image = crop.crop(photo, found, CropSpec("eyes", margin, size))
    assert image.shape == (*size, 3)
    apart = 0.37 / (1 + margin) * min(size)
    places = [(size[1] / 2 + side * apart / 2, 0.42 * size[0]) for side in (-1, 1)]
    for channel, place in enumerate(places):
        assert middle_of(image[:, :, channel].astype(float)) == pytest.approx(place, abs=0.5)


def test_a_face_without_eyes_is_cropped_by_its_box() -> None:
    box = Detection((200, 300), box=(100.0, 50.0, 160.0, 130.0))
    parts = [region(box, CropSpec(m, 0.3, (96, 96))) for m in ("face", "eyes")]
    assert parts[0] == parts[1] == (78, 38, 182, 142)


def test_a_level_crop_shows_as_much_as_a_face_crop() -> None:
    """A side of the box grown by the margin; `two_eyes` draws a box of the usual proportion."""
    _, found = two_eyes((100, 150), (160, 150))
    for margin in (0, 0.3, 1):
        parts = (region(found, CropSpec(m, margin, (96, 96))) for m in ("face", "eyes"))
        face, eyes = (np.subtract(part[2:], part[:2]) for part in parts)
        assert np.abs(eyes - face).max() <= 2


@pytest.mark.parametrize("angle", [-20, -7, 12])
def test_a_tilted_photo_gives_the_same_level_crop(angle: float, faces: tuple[Face, ...]) -> None:
    """Found by the detector in both, and again in the crop; the crop of the box changes more."""
    photo = read(next(face for face in faces if face.view == "normal"))
    height, width = photo.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1)
    tilted = cv2.warpAffine(photo, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    seen = [(photo, detect(photo)), (tilted, detect(tilted))]
    left, right, *_ = detect(crop.crop(*seen[1], CropSpec("eyes", 1, (192, 192)))).landmarks
    apart = 0.37 * 192 / 2 / 2
    assert left == pytest.approx((96 - apart, 0.42 * 192), abs=2.5)
    assert right == pytest.approx((96 + apart, 0.42 * 192), abs=2.5)
    change = {}
    for method in ("face", "eyes"):
        one, other = (crop.crop(*pair, CropSpec(method, 0.3, (96, 96))) for pair in seen)
        change[method] = np.abs(one.astype(int) - other).mean()
    assert change["eyes"] < 0.7 * change["face"]


def test_turning_averages_where_it_shrinks() -> None:
    """A checkerboard of single pixels becomes even grey, not a pattern."""
    board = np.indices((400, 400)).sum(axis=0) % 2 * 200
    photo = board[:, :, None].repeat(3, axis=2).astype(np.uint8)
    landmarks = ((150, 170), (250, 200), (200, 220), (160, 260), (240, 260))
    found = Detection((400, 400), box=(60, 80, 340, 360), landmarks=landmarks)
    small = crop.crop(photo, found, CropSpec("eyes", 0, (48, 48))).astype(int)
    assert np.abs(small - 100).max() <= 12


PLACE = st.tuples(EDGE, EDGE)


@given(
    corner=PLACE, extent=st.tuples(st.floats(0, 900), st.floats(0, 900)),
    eyes=st.tuples(PLACE, PLACE), margin=st.floats(-0.5, 3),
)  # fmt: skip
def test_landmarks_that_are_off_still_give_a_crop(
    corner: tuple[float, float],
    extent: tuple[float, float],
    eyes: tuple[tuple[float, float], ...],
    margin: float,
) -> None:
    """Of a size that the box allows, about a place in the photo."""
    box = (*corner, corner[0] + extent[0], corner[1] + extent[1])
    found = Detection(NOISE.shape[:2], box=box, landmarks=(*eyes, *eyes, eyes[0]))
    spec = CropSpec("eyes", margin, (40, 32))
    assert crop.crop(NOISE, found, spec).shape == (40, 32, 3)
    x0, y0, x1, y1 = region(found, spec)
    assert x0 <= 40 and y0 <= 60 and x1 >= 0 and y1 >= 0
    longest = max(2, max(extent) * 0.6 / 0.37 * (1 + margin)) * np.hypot(1, 40 / 32)
    assert max(x1 - x0, y1 - y0) <= longest + 2


def test_without_a_face_level_eyes_become_the_centre() -> None:
    spec = CropSpec("eyes", 0.3, (64, 64), center=(350, 350))
    center = CropSpec("center", 0, (64, 64), center=(350, 350))
    nothing = Detection(NOISE.shape[:2])
    assert np.array_equal(crop.crop(NOISE, nothing, spec), crop.crop(NOISE, nothing, center))
    assert region(nothing, spec) == region(nothing, center)


def test_another_place_for_the_eyes_is_another_folder_of_the_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    specs = [CropSpec(method, 0.3, (64, 64)) for method in ("eyes", "face")]
    before = [crop.crop_settings(spec) for spec in specs]
    monkeypatch.setattr(crop, "EYES", crop.EYES | {"height": 0.5})
    after = [crop.crop_settings(spec) for spec in specs]
    assert before[0] != after[0] and before[1] == after[1]


# Which face


def candidates(*faces: tuple[float, float, float, float]) -> tuple[np.ndarray, ...]:
    """What MTCNN says of faces (x, y, side, probability)."""
    boxes = np.array([(x - s / 2, y - s / 2, x + s / 2, y + s / 2) for x, y, s, _ in faces])
    return boxes, np.array([face[3] for face in faces]), np.zeros((len(faces), 5, 2))


@pytest.mark.parametrize(
    "faces",
    [
        [(200, 200, 50, 0.9), (200, 200, 80, 0.9)],
        [(200, 200, 80, 0.5), (200, 200, 80, 0.9)],
        [(60, 60, 80, 0.9), (180, 190, 80, 0.9)],
        [(20, 20, 90, 0.9), (200, 200, 60, 0.9)],
        [(200, 200, 50, 0.99), (150, 200, 90, 0.8)],
        [(410, 410, 80, 0.1), (410, 410, 80, 0.9)],
    ],
    ids=["larger", "surer", "nearer", "nearness beats area", "area beats both", "beyond a corner"],
)
def test_the_most_prominent_face_is_chosen(
    faces: list[tuple[float, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time the second one, in whichever order the detector names them."""
    for order in (faces, faces[::-1]):
        monkeypatch.setattr(detector, "_detect_scaled", lambda *_, f=order: candidates(*f))
        found = detect(np.zeros((400, 400, 3), np.uint8))
        assert found.box == tuple(candidates(faces[1])[0][0]) and found.faces == 2
        assert found.probability == faces[1][3]


def test_the_detector_finds_faces_of_any_size(faces: tuple[Face, ...]) -> None:
    photo = read(faces[6])
    found = detect(photo)
    left, top, right, bottom = found.box
    assert 0 < left < right < 384 and 0 < top < bottom < 512 and found.faces == 1
    eye, _, nose, mouth, _ = found.landmarks
    assert left < eye[0] < nose[0] < right and top < eye[1] < nose[1] < mouth[1] < bottom
    for scale, place in ((0.5, 0), (3, 0), (0.2, 600)):  # a small face needs the second look
        scaled = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        scaled = np.pad(scaled, ((place, place), (place, place), (0, 0)), mode="edge")
        box = np.subtract(detect(scaled).box, place) / scale
        assert np.abs(box - found.box).max() < 0.15 * (right - left)


@pytest.mark.parametrize(
    ("sides", "smallest"), [((300, 400), 24), ((384, 512), 34), ((2000, 900), 34)]
)
def test_a_second_look_is_for_faces_of_more_pixels_in_larger_photos(
    sides: tuple[int, int], smallest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []

    def nothing(image: object, scale: float, face: int, thresholds: object, skipped: int) -> tuple:
        looks.append(round(face * mtcnn.FACTOR**-skipped))
        return np.empty((0, 4)), np.empty(0), np.empty((0, 5, 2))

    monkeypatch.setattr(detector, "_detect_scaled", nothing)
    assert not detect(np.zeros((*sides, 3), np.uint8)).faces
    assert looks[0] > 0.3 * min(512, *sides) and looks[1:] == [smallest]


@pytest.mark.parametrize("shape", [(512, 384), (20, 20), (20, 3000)])
@pytest.mark.parametrize("content", ["black", "white", "noise"])
def test_nothing_is_found_where_there_is_no_face(content: str, shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 255 * (content == "white"), np.uint8)
    if content == "noise":
        image = np.random.default_rng(0).integers(0, 256, image.shape, dtype=np.uint8)
    assert detect(image) == Detection(shape)


# The same crop in training and prediction


@pytest.mark.parametrize(
    "spec",
    [
        FACE,
        CropSpec("face", 0, (96, 72)),
        CropSpec("eyes", 0.3, (64, 48)),
        CENTER,
        CropSpec("none", 0, (50, 40)),
    ],
    ids=lambda spec: f"{spec.method} {spec.size}",
)
def test_training_and_prediction_see_the_same_pixels(
    spec: CropSpec, faces: tuple[Face, ...], cache: Path
) -> None:
    """Anew, from the cache, as the training data set reads it, and through a checkpoint."""
    for face in faces[:7:3]:
        anew, again = Cropper([spec], cache)(face.path), Cropper([spec], cache)(face.path)
        assert anew.images[0].shape == (*spec.size, 3)
        assert anew.images[0].tobytes() == again.images[0].tobytes()
        assert (anew.region, anew.detected, anew.files) == (
            again.region,
            again.detected,
            again.files,
        )
        assert anew.detected is (True if spec.needs_face else None)
        seen = to_tensor(anew.images[0])
        assert torch.equal(seen, FaceDataset(anew.files, [0])[0][0])
        assert torch.equal(seen, LoadedModel(None, None, spec, {}, Path()).transform(read(face)))


def test_several_specs_at_once_are_cut_as_each_alone(
    faces: tuple[Face, ...], tmp_path: Path
) -> None:
    specs = [FACE, CENTER, CropSpec("eyes", 1, (32, 48))]
    alone = [Cropper([spec], tmp_path / "alone")(faces[0].path) for spec in specs]
    for _ in ("anew", "from the cache"):
        together = Cropper(specs, tmp_path / "together")(faces[0].path)
        for image, one in zip(together.images, alone, strict=True):
            assert image.tobytes() == one.images[0].tobytes()
        assert together.detected and together.region == alone[0].region


# The cache


def test_the_detector_is_asked_once_a_photo(
    faces: tuple[Face, ...], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it found a face or not, and also for crops of another size or margin."""
    blank = write(tmp_path / "blank.png", np.full((80, 60, 3), 99, np.uint8))
    copy = tmp_path / "copy.jpg"
    copy.write_bytes(faces[0].path.read_bytes())
    first = [Cropper([FACE], cache)(path) for path in (faces[0].path, blank)]
    assert [one.detected for one in first] == [True, False]
    assert first[1].region == region(Detection((80, 60)), CENTER)
    monkeypatch.setattr(detector, "detect", no_detector)
    again = [Cropper([FACE], cache)(path) for path in (copy, blank)]
    assert [one.region for one in again] == [one.region for one in first]
    assert [one.detected for one in again] == [True, False]
    assert [list(one.seconds) for one in first] == [["read", "decode", "detect", "crop"]] * 2
    assert [list(one.seconds) for one in again] == [["read"]] * 2
    wide = Cropper([CropSpec("face", 1, (32, 64))], cache)(faces[0].path)
    assert wide.detected and wide.images[0].shape == (32, 64, 3)


def test_a_prediction_keeps_where_a_face_is_and_takes_a_trainings_crops(
    faces: tuple[Face, ...], tmp_path: Path
) -> None:
    passing = Cropper([FACE], tmp_path, keep=False)
    first, again = passing(faces[0].path), passing(faces[0].path)
    assert list(again.seconds) == ["read", "decode", "crop"]
    assert not list(tmp_path.glob("crops-*")) and not first.files[0].exists()
    kept = Cropper([FACE], tmp_path)(faces[0].path)
    assert kept.files == first.files and kept.files[0].is_file()
    after = passing(faces[0].path)
    assert list(after.seconds) == ["read"]
    assert len({crops.images[0].tobytes() for crops in (first, again, kept, after)}) == 1


def test_no_detector_is_asked_where_no_face_is_looked_for(
    faces: tuple[Face, ...], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detector, "detect", no_detector)
    assert Cropper([CENTER, CropSpec("none", 0, (32, 32))], cache)(faces[0].path).detected is None


def test_another_photo_in_the_same_place_is_another_crop(cache: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "photo.png", NOISE)
    before = Cropper([CENTER], cache)(path)
    after = Cropper([CENTER], cache)(write(path, 255 - NOISE))
    assert before.files != after.files
    assert np.abs(before.images[0].astype(int) + after.images[0] - 255).max() <= 1


DAMAGE = {
    "empty": lambda data: b"",
    "cut short": lambda data: data[: len(data) // 2],
    "last byte gone": lambda data: data[:-1],
    "a bit flipped": lambda data: data[:-30] + bytes([data[-30] ^ 1]) + data[-29:],
    "zeros": lambda data: bytes(len(data)),
    "not the fields": lambda data: b'{"shape": 5}',
    "not a mapping": lambda data: b"[1]",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_files_of_the_cache_are_made_anew(
    damage: object, cache: Path, tmp_path: Path, faces: tuple[Face, ...]
) -> None:
    cropper = Cropper([FACE], cache)
    whole, content = cropper(faces[0].path), tree(cache)
    assert sorted(path.suffix for path in content) == [".json", ".png"]
    for path, data in content.items():
        path.write_bytes(damage(data))
    again = cropper(faces[0].path)
    assert again.images[0].tobytes() == whole.images[0].tobytes()
    assert (again.region, again.detected) == (whole.region, whole.detected)
    assert tree(cache) == content


@pytest.mark.parametrize("lost", [".json", ".png"])
def test_lost_files_of_the_cache_are_made_anew(lost: str, cache: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "photo.png", NOISE)
    Cropper([CENTER], cache)(path)
    content = tree(cache)
    for file in content:
        if file.suffix == lost:
            file.unlink()
    Cropper([CENTER], cache)(path)
    assert tree(cache) == content


def test_an_interrupted_crop_leaves_nothing_half_written(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "photo.png", NOISE)
    cropper = Cropper([CENTER], cache)
    with monkeypatch.context() as patch:
        patch.setattr(os, "chmod", full_disk)
        with pytest.raises(UserError, match="No space left"):
            cropper(path)
    assert tree(cache) == {}
    assert cropper(path).files[0].is_file()


def test_others_cannot_look_into_the_cache(cache: Path, tmp_path: Path) -> None:
    """Not even where the user's umask allows everything."""
    path = write(tmp_path / "photo.png", NOISE)
    umask = os.umask(0)
    try:
        folder, warning = usable_cache(cache)
        Cropper([CENTER], folder)(path)
    finally:
        os.umask(umask)
    modes = {stat.S_IMODE(file.stat().st_mode) for file in tree(cache)}
    folders = {stat.S_IMODE(file.parent.stat().st_mode) for file in tree(cache)}
    assert (folder, warning, modes, folders) == (cache, "", {0o600}, {0o700})
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700 and list(cache.glob("tmp*")) == []


@pytest.mark.parametrize("below", [".", "cache"])
def test_a_cache_that_cannot_be_written_is_replaced_with_a_warning(
    below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder, warning = usable_cache(tmp_path / "file" / below)
    assert warning.startswith(f"{tmp_path / 'file' / below}: ") and str(folder) in warning
    crops = Cropper([CENTER], folder)(write(tmp_path / "photo.png", NOISE))
    assert crops.files[0].is_relative_to(folder) and crops.files[0].is_file()


@pytest.mark.parametrize(
    ("user", "reason"),
    [(0, "crops-000000000000 is a symbolic link"), (7, "belongs to another user")],
)
def test_a_cache_in_other_hands_is_not_used(
    user: int, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    cache = tmp_path / "cache"
    cache.mkdir()
    if user == 0:
        (cache / "crops-000000000000").symlink_to(tmp_path / "elsewhere")
    else:
        monkeypatch.setattr(os, "getuid", lambda: cache.stat().st_uid + user)
    folder, warning = usable_cache(cache)
    assert folder != cache and reason in warning


def test_a_bad_photo_is_refused_and_not_cached(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"<html>")
    with pytest.raises(BadPhoto, match="not a photo of a known format"):
        Cropper([FACE], cache)(tmp_path / "bad.jpg")
    assert tree(tmp_path / "cache") == {}


def unfinished(cache: Path) -> Path:
    """What a process leaves that is killed while it writes into the cache."""
    file = next(cache.glob("crops-*")) / f".{'0a' * 24}.abcd_123.part"
    file.touch()
    return file


def test_the_next_run_removes_what_a_killed_one_left(cache: Path, tmp_path: Path) -> None:
    Cropper([CENTER], cache)(write(tmp_path / "photo.png", NOISE))
    before = tree(cache)
    unfinished(cache)
    usable_cache(cache)
    assert tree(cache) == before


def test_purging_deletes_faces_and_nothing_else(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    Cropper([CENTER], cache)(write(tmp_path / "photo.png", NOISE))
    size = sum(len(data) for data in tree(cache).values())
    unfinished(cache)
    mine = next(cache.glob("crops-*")) / "mine.png"
    mine.touch()
    (cache / "notes").mkdir()
    (cache / "crops-0123456789ab").symlink_to(tmp_path)
    assert purge.main(["--cache-dir", str(cache)]) == 0
    assert capsys.readouterr().out == f"{cache}: 3 files deleted, {size / 1e6:.1f} MB\n"
    assert [path for path in cache.rglob("*.*") if path.is_file()] == [mine]
    assert (cache / "notes").is_dir() and (tmp_path / "photo.png").is_file()
    assert not list(cache.glob("boxes-*"))


def test_what_is_no_cache_is_not_purged(cache: Path, tmp_path: Path) -> None:
    write(tmp_path / "photo.png", NOISE)
    for folder in (tmp_path, cache):
        with pytest.raises(UserError, match=rf"--cache-dir {folder}: no "):
            purge.purge(folder)
    cache.mkdir()
    assert purge.purge(cache) == (0, 0)
