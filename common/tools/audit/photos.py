"""Inspection of every photo: unreadable, dark or blurred ones, missing faces, and copies."""

import dataclasses
import functools
import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from common.base.errors import warn
from common.base.progress import progress
from common.data.alike import (
    NEAR_BITS,
    NEAR_CORRELATION,
    connected,
    correlation,
    fingerprint,
    near_pairs,
    thumbnail,
)
from common.data.layout import age_band
from common.data.loading import Photos, in_batches
from common.faces.cache import Detections, usable_cache
from common.faces.crop import Detection
from common.faces.decode import decode, read_bytes
from common.tools.audit.tables import EVAL, AuditedPhoto, Finding

SHARPNESS_SIDE = 256  # px of the longer side at which sharpness is measured
# Of 255, for the lightest and the darkest twentieth of the pixels: a mean would take dark skin before a
# dark wall for a bad exposure.
DARK, BRIGHT = 64, 192
BLURRED = 8  # variance of the Laplacian (Pech-Pacheco et al. 2000); half a percent of UTKFace
TINY_FACE = 0.15  # of the photo's shorter side
CUT_FACE = 0.25  # of the box's side that lies beyond the photo


@dataclasses.dataclass(frozen=True, slots=True)
class PhotoFacts:
    """Facts about one photo; `digest` is the SHA-256 of the file.

    `tones` are the grays, 0 to 255, below which a twentieth and all but a twentieth of the pixels
    lie; `sharpness` is the variance of the Laplacian; `face` is None where no detector was asked.
    """

    digest: str
    shape: tuple[int, int]
    fingerprint: np.uint64
    thumbnail: np.ndarray
    tones: tuple[int, int]
    sharpness: float
    face: Detection | None


def inspect(detections: Detections | None, path: Path) -> PhotoFacts:
    """Decode a photo and measure it; without `detections` no face is detected.

    Raises:
        BadPhoto: the photo can't be used.
    """
    data = read_bytes(path)
    key, photo = hashlib.sha256(data).hexdigest(), decode(data)
    face = None
    if detections is not None:
        face = detections.cached(key) or detections.detect(key, photo)
    gray = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    return PhotoFacts(
        digest=key,
        shape=photo.shape[:2],
        fingerprint=fingerprint(photo),
        thumbnail=thumbnail(photo),
        tones=tones(gray),
        sharpness=sharpness(gray),
        face=face,
    )


def tones(gray: np.ndarray) -> tuple[int, int]:
    """The grays of a (height, width) uint8 photo below which 5% and 95% of its pixels lie."""
    counts = np.bincount(gray.ravel(), minlength=256).cumsum()
    low, high = np.searchsorted(counts, (0.05 * gray.size, 0.95 * gray.size))
    return int(low), int(high)


def sharpness(gray: np.ndarray) -> float:
    """The variance of the Laplacian of a (height, width) uint8 photo scaled to one size."""
    scale = SHARPNESS_SIDE / max(gray.shape)
    size = [max(1, round(side * scale)) for side in gray.shape[::-1]]
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return float(cv2.Laplacian(cv2.resize(gray, size, interpolation=method), cv2.CV_32F).var())


Inspected = tuple[AuditedPhoto, PhotoFacts]


def inspect_all(
    photos: Sequence[AuditedPhoto], cache_dir: Path, *, workers: int, detect: bool
) -> tuple[list[Inspected], list[tuple[AuditedPhoto, str]]]:
    """Inspect every photo, with a progress bar; the others are those that can't be read, and why."""
    detections = None
    if detect:
        folder, warning = usable_cache(cache_dir)
        warn(warning)
        detections = Detections(folder, "mtcnn")
    read = Photos([photo.path for photo in photos], functools.partial(inspect, detections))
    results: list[PhotoFacts | str] = []
    with progress(len(photos), "inspect", "photos") as bar:
        for batch in in_batches(read, workers=workers):
            results += batch
            bar.update(len(batch))
    pairs = list(zip(photos, results, strict=True))
    inspected = [(photo, facts) for photo, facts in pairs if isinstance(facts, PhotoFacts)]
    return inspected, [(photo, reason) for photo, reason in pairs if isinstance(reason, str)]


def examine(seen: Sequence[Inspected], bad: Sequence[tuple[AuditedPhoto, str]]) -> list[Finding]:
    """All findings of photos, worst first."""
    unreadable = tuple(f"{photo.name}: {reason}" for photo, reason in bad)
    findings = [Finding("error", "photos that can't be read", unreadable)]
    findings += _copies(seen)
    findings += _near_copies(seen)
    findings += _appearance(seen)
    findings += _faces(seen)
    return [finding for finding in findings if finding.lines]


def _selected(
    level: str, title: str, seen: Iterable[Inspected], test: Callable[[PhotoFacts], str]
) -> Finding:
    """The photos for which `test` has something to say."""
    tested = [(photo, test(look)) for photo, look in seen]
    odd = [(photo, text) for photo, text in tested if text]
    lines = tuple(f"{photo.name} ({text})" for photo, text in odd)
    return Finding(level, title, lines, tuple(photo.path for photo, _ in odd))


def _appearance(seen: Sequence[Inspected]) -> Iterator[Finding]:
    def dark(look: PhotoFacts) -> str:
        return f"{look.tones[1]}" if look.tones[1] < DARK else ""

    def bright(look: PhotoFacts) -> str:
        return f"{look.tones[0]}" if look.tones[0] > BRIGHT else ""

    def blurred(look: PhotoFacts) -> str:
        sharp = look.sharpness >= BLURRED or dark(look) or bright(look)
        return "" if sharp else f"{look.sharpness:.1f}"

    yield _selected("warning", f"too dark (hardly a pixel above {DARK} of 255)", seen, dark)
    yield _selected("warning", f"too bright (hardly a pixel below {BRIGHT} of 255)", seen, bright)
    worst_first = sorted(seen, key=lambda pair: pair[1].sharpness)
    title = f"blurred (variance of the Laplacian below {BLURRED})"
    yield _selected("warning", title, worst_first, blurred)


def _faces(seen: Sequence[Inspected]) -> Iterator[Finding]:
    """Findings of the detector; a photo without a face is still trained on and predicted."""
    asked = [(photo, look) for photo, look in seen if look.face is not None]
    hidden: dict[str, list[bool]] = defaultdict(list)
    firsts = {}
    for photo, look in asked:
        if photo.face:
            hidden[photo.owner].append(look.face.box is None)
            firsts.setdefault(photo.owner, photo.path)
    never = tuple(owner for owner, photos in hidden.items() if all(photos))
    yield Finding(
        "warning", "people without a detected face in any photo", never,
        tuple(firsts[owner] for owner in never),
    )  # fmt: skip
    yield _selected(
        "note", "no face detected: the centre is taken", asked,
        lambda look: "" if look.face.box else "no face",
    )  # fmt: skip
    yield _selected(
        "note", "several faces detected: the largest in the middle is taken", asked,
        lambda look: f"{look.face.faces} faces" if look.face.faces > 1 else "",
    )  # fmt: skip
    yield _selected("warning", "upside down", asked, _upside_down)
    yield _selected("note", f"face smaller than {TINY_FACE:.0%} of the photo", asked, _tiny)
    yield _selected("note", "face cut by the edge of the photo", asked, _cut)


def _upside_down(look: PhotoFacts) -> str:
    points = look.face.landmarks
    if points is None:
        return ""
    eyes, mouth = (np.mean([y for _, y in part]) for part in (points[:2], points[3:]))
    return "eyes below mouth" if eyes > mouth else ""


def _tiny(look: PhotoFacts) -> str:
    if look.face.box is None:
        return ""
    x0, y0, x1, y1 = look.face.box
    side = max(x1 - x0, y1 - y0)
    return f"{side:.0f} px" if side < TINY_FACE * min(look.shape) else ""


def _cut(look: PhotoFacts) -> str:
    if look.face.box is None:
        return ""
    x0, y0, x1, y1 = look.face.box
    height, width = look.shape
    across = (max(0, -x0) + max(0, x1 - width)) / (x1 - x0)
    down = (max(0, -y0) + max(0, y1 - height)) / (y1 - y0)
    return f"{max(across, down):.0%} beyond" if max(across, down) > CUT_FACE else ""


def _labels(photos: Iterable[AuditedPhoto]) -> str:
    """Text to add if the photos' people differ in gender or age group."""
    people = {photo.face.person for photo in photos if photo.face}
    genders = {p.gender for p in people if p.gender}
    bands = {age_band(p.age) for p in people if p.age is not None}
    return " (labels differ)" if max(len(genders), len(bands)) > 1 else ""


def _copies(seen: Sequence[Inspected]) -> Iterator[Finding]:
    """Files with the same bytes: under two people, to learn and to predict, in one folder."""
    groups: dict[str, list[AuditedPhoto]] = defaultdict(list)
    for photo, look in seen:
        groups[look.digest].append(photo)
    same = [photos for photos in groups.values() if len(photos) > 1]
    owners = [{photo.owner for photo in photos} for photos in same]
    across = [p for p, o in zip(same, owners, strict=True) if len(o - {EVAL}) > 1]
    leaked = [p for p, o in zip(same, owners, strict=True) if EVAL in o and len(o) > 1]
    within = [p for p, o in zip(same, owners, strict=True) if len(o) == 1]
    worn = [p for p in within if len({photo.face.mask for photo in p if photo.face} - {""}) > 1]
    yield _group("warning", "the same file under two people", across)
    yield _group("warning", "the same file to train on and to predict", leaked)
    yield _group("warning", "the same file as different masks of one person", worn)
    rest = [photos for photos in within if photos not in worn]
    yield _group("note", "the same file twice, of one person or to predict", rest)


def _group(level: str, title: str, groups: Iterable[Sequence[AuditedPhoto]]) -> Finding:
    groups = list(groups)
    lines = tuple(" = ".join(photo.name for photo in group) + _labels(group) for group in groups)
    return Finding(level, title, lines, tuple(photo.path for g in groups for photo in g))


def _near_copies(seen: Sequence[Inspected]) -> Iterator[Finding]:
    """The same picture in different files of two people, or to learn and to predict."""
    across: list[tuple[AuditedPhoto, AuditedPhoto]] = []
    leaked: list[tuple[AuditedPhoto, AuditedPhoto]] = []
    within: Counter[str] = Counter()
    for a, b in same_pictures(seen):
        if a.owner != b.owner:
            (leaked if EVAL in (a.owner, b.owner) else across).append((a, b))
        elif a.owner != EVAL:
            within[a.owner] += 1
    groups = _grouped(across)
    yield _group("warning", "nearly the same photo under two people", groups)
    firsts = {(b if b.owner == EVAL else a).name: (a, b) for a, b in leaked}
    yield _group("warning", "nearly the same photo to train on and to predict", firsts.values())
    lines = tuple(f"{owner} ({pairs} pairs)" for owner, pairs in within.most_common())
    yield Finding("note", "people of whom several photos are nearly the same", lines)


def same_pictures(seen: Sequence[Inspected]) -> list[tuple[AuditedPhoto, AuditedPhoto]]:
    """Pairs of different files that show the same picture, by fingerprint and thumbnail.

    Of files with the same fingerprint one stands for all, so that a thousand black photos make no
    million pairs.
    """
    files: dict[str, Inspected] = {}
    for photo, look in seen:
        files.setdefault(look.digest, (photo, look))
    looked = list(files.values())
    hashes, first, place = np.unique(
        np.array([look.fingerprint for _, look in looked], dtype=np.uint64),
        return_index=True, return_inverse=True,
    )  # fmt: skip
    alike = [sorted((first[i], first[j])) for i, j in near_pairs(hashes, NEAR_BITS)]
    alike += [[first[group], i] for i, group in enumerate(place) if first[group] != i]
    return [
        (looked[i][0], looked[j][0])
        for i, j in sorted(alike)
        if correlation(looked[i][1].thumbnail, looked[j][1].thumbnail) >= NEAR_CORRELATION
    ]


def _grouped(pairs: Sequence[tuple[AuditedPhoto, AuditedPhoto]]) -> list[list[AuditedPhoto]]:
    """One group for people who share pictures: the photo of each that was met first."""
    owners: dict[str, AuditedPhoto] = {}
    for photo in (photo for pair in pairs for photo in pair):
        owners.setdefault(photo.owner, photo)
    number = {owner: place for place, owner in enumerate(owners)}
    firsts = connected(len(owners), [(number[a.owner], number[b.owner]) for a, b in pairs])
    groups: dict[int, list[AuditedPhoto]] = defaultdict(list)
    for photo, first in zip(owners.values(), firsts, strict=True):
        groups[first].append(photo)
    return list(groups.values())


def sizes(seen: Iterable[Inspected]) -> Mapping[tuple[int, int], int]:
    """Count photos by (height, width), most frequent first."""
    counts = Counter(look.shape for _, look in seen)
    return dict(counts.most_common())
