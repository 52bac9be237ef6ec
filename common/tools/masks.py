"""Masks drawn on photos of bare faces: cloth bent round a head where MTCNN's landmarks lie.

The head is an upright elliptic cylinder that narrows towards the chin. It leans as the eyes do
(roll), is turned as far as the nose lies off their middle (yaw) and nods as far as the nose lies
nearer to the eyes or to the mouth (pitch). A mask is drawn on the unrolled cylinder and then bent
round it. There, `around` is the angle from the middle of the face in quarter turns, positive
to the photo's right, and `down` is 0 at the eyes' height and 1 at the mouth's.

The cloth takes the photo's own light, tint, blur and noise. Where no cloth, strap or shadow lies
every pixel stays as it was.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.faces.crop import Detection
from common.faces.decode import BadPhoto
from common.tools.demo.canvas import Floats, curve, mirrored

Kind = Literal["surgical", "boat", "fold", "cup", "sponge", "cloth"]
Wear = Literal["right", "under nose", "on chin", "over mouth"]
KINDS: tuple[Kind, ...] = get_args(Kind)
WRONG: tuple[Wear, ...] = get_args(Wear)[1:]

MIN_EYES = 8.0  # px; on a smaller face a mask is a blot
MAX_TURN = 0.35  # of the eyes' distance: how far the nose may lie off their middle
NOSE_DOWN = 0.59  # where it lies on a face seen from the front: the median of 2,700
NOSE_AHEAD = 0.45  # of the eyes, and EYES_AHEAD of the neck's axis, in distances of the eyes
EYES_AHEAD = 0.75
CHIN_DOWN = 1.66
# Half the width of a head, and how far ahead of its axis cloth hangs, in distances of the eyes.
HEIGHTS = (0.0, 0.3, 0.6, 1.0, 1.4, 1.66, 2.1)
WIDTHS = (1.08, 1.08, 1.06, 1.0, 0.87, 0.74, 0.66)
DEPTHS = (0.9, 1.05, 1.24, 1.18, 1.05, 0.92, 0.8)

COLOURLESS = 8  # between a pixel's channels, 0 to 255, on average; skin has 40 and more
FACE_EDGES = 0.75  # lids and brows are softer than cloth is, on the sharpest photo
FLAT = (-1.3, 1.3, -0.3, 2.7)  # of the unrolled cylinder what is drawn: around, down
FINE = 2  # pixels are computed as FINE × FINE, so that edges are smooth

# Shares of the mask's height at which its right half turns, from the nose's bridge to the chin.
OUTLINES: dict[Kind, tuple[tuple[float, float], ...]] = {
    "surgical": (
        (0, -0.02),
        (0.2, 0.0),
        (0.45, 0.1),
        (0.8, 0.2),
        (0.83, 0.42),
        (0.8, 0.66),
        (0.5, 0.88),
        (0.22, 0.98),
        (0, 1),
    ),
    "boat": (
        (0, -0.05),
        (0.18, 0.0),
        (0.45, 0.16),
        (0.84, 0.33),
        (0.88, 0.45),
        (0.82, 0.6),
        (0.5, 0.85),
        (0.2, 0.98),
        (0, 1),
    ),
    "fold": (
        (0, -0.06),
        (0.12, -0.01),
        (0.4, 0.15),
        (0.82, 0.34),
        (0.86, 0.48),
        (0.76, 0.66),
        (0.4, 0.9),
        (0.12, 1),
        (0, 1.02),
    ),
    "cup": (
        (0, -0.02),
        (0.2, 0.02),
        (0.48, 0.17),
        (0.66, 0.4),
        (0.66, 0.6),
        (0.52, 0.82),
        (0.25, 0.97),
        (0, 1),
    ),
    "sponge": (
        (0, -0.04),
        (0.2, 0.03),
        (0.5, 0.17),
        (0.85, 0.25),
        (1.12, 0.12),
        (1.14, 0.4),
        (0.86, 0.58),
        (0.5, 0.86),
        (0.2, 0.98),
        (0, 1),
    ),
    "cloth": (
        (0, -0.05),
        (0.2, 0.02),
        (0.5, 0.12),
        (0.84, 0.2),
        (0.88, 0.45),
        (0.82, 0.66),
        (0.5, 0.88),
        (0.2, 0.99),
        (0, 1),
    ),
}
SHARES = (0.38, 0.17, 0.13, 0.06, 0.1, 0.16)  # of the kinds
WHITE, BLUE, BLACK, GREY = (
    (0.95, 0.96, 0.97),
    (0.6, 0.78, 0.9),
    (0.09, 0.09, 0.1),
    (0.5, 0.51, 0.53),
)
PINK, TEAL, BEIGE, NAVY = (0.93, 0.7, 0.75), (0.5, 0.8, 0.76), (0.85, 0.76, 0.65), (0.2, 0.25, 0.4)
USUAL = (WHITE, BLUE, BLACK, GREY, PINK, TEAL, BEIGE, NAVY)
COLOURS: dict[Kind, tuple[float, ...]] = {  # the shares of USUAL; what is left is any colour
    "surgical": (0.3, 0.38, 0.08, 0.02, 0.05, 0.12, 0.01, 0.02),
    "boat": (0.6, 0.03, 0.18, 0.08, 0.03, 0.01, 0.04, 0.02),
    "fold": (0.62, 0.04, 0.12, 0.1, 0.03, 0.02, 0.03, 0.02),
    "cup": (0.8, 0.05, 0.04, 0.06, 0.0, 0.02, 0.02, 0.0),
    "sponge": (0.12, 0.03, 0.35, 0.25, 0.08, 0.01, 0.08, 0.04),
    "cloth": (0.14, 0.06, 0.2, 0.1, 0.07, 0.04, 0.07, 0.1),
}


@dataclasses.dataclass(frozen=True)
class HeadPose:
    """A head in a photo: `origin` between the eyes (x, y), `across` to its right one, of length 1.

    `eyes` is their distance as seen from the front and `drop` their height above the mouth, in
    pixels; `yaw` in radians, positive to the photo's right, `pitch` a sine, positive downwards;
    `chin` is where it ends, in drops.
    """

    origin: NDArray[np.float64]
    across: NDArray[np.float64]
    eyes: float
    drop: float
    yaw: float
    pitch: float
    chin: float

    @property
    def axes(self) -> NDArray[np.float64]:
        """Unit vectors across and down the face, one a row."""
        return np.array([self.across, (-self.across[1], self.across[0])])

    def turned(self, down: ArrayLike) -> tuple[Floats, Floats]:
        """Half the width seen at these heights, in distances of the eyes, and the middle's angle."""
        width = np.interp(down, HEIGHTS, WIDTHS) * np.cos(self.yaw)
        depth = np.interp(down, HEIGHTS, DEPTHS) * np.sin(self.yaw)
        return np.hypot(width, depth), np.arctan2(depth, width)

    def placed(self, flat: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
        """Project points (n, 2) of the unrolled cylinder into the photo; returns which are visible, too."""
        around, down = np.asarray(flat, np.float64).T
        half, middle = self.turned(down)
        angle = around * np.pi / 2 + middle
        x = half * np.sin(angle) - EYES_AHEAD * np.sin(self.yaw)
        y = down * self.drop + self._nod(half, angle, middle)
        points = np.stack([x * self.eyes, y], axis=1) @ self.axes + self.origin
        return points.astype(np.float32), np.abs(angle) < np.pi / 2

    def unrolled(self, x: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
        """`around` and `down` of pixels, and the cosine of the angle to the camera, 0 outside."""
        points = np.stack([x - self.origin[0], y - self.origin[1]], axis=-1) @ self.axes.T
        aside = points[..., 0] / self.eyes + EYES_AHEAD * np.sin(self.yaw)
        down = level = points[..., 1] / self.drop
        for _ in range(2):  # the height decides the width, which with the nod decides the height
            half, middle = self.turned(down)
            angle = np.arcsin(np.clip(aside / half, -1, 1))
            down = level - self._nod(half, angle, middle) / self.drop
        around = (angle - middle) * 2 / np.pi
        return tuple(np.float32(part) for part in (around, down, np.cos(angle)))

    def _nod(self, half: Floats, angle: Floats, middle: Floats) -> Floats:
        """Shift downwards, in pixels, of what is nearer to the camera than the middle of the face."""
        return self.pitch * self.eyes * half * (np.cos(angle) - np.cos(middle))


def head_of(detection: Detection) -> HeadPose:
    """The head that fits MTCNN's landmarks; BadPhoto where there are none, or no face seems there."""
    if detection.landmarks is None or detection.box is None:
        raise BadPhoto("no face found")
    left, right, nose, *corners = np.array(detection.landmarks)
    seen = float(np.hypot(*(right - left)))
    if seen < MIN_EYES:
        raise BadPhoto(f"eyes {seen:.0f} pixels apart, a mask needs {MIN_EYES:.0f}")
    origin, across = (left + right) / 2, (right - left) / seen
    below = np.array([across, (-across[1], across[0])])
    (aside, nose_down), (_, drop) = (
        (p - origin) @ below.T for p in (nose, np.mean(corners, axis=0))
    )
    if abs(aside) > MAX_TURN * seen or not 0.5 < drop / seen < 2 or not 0.2 < nose_down / drop < 1:
        raise BadPhoto("the face is turned too far, or none")
    yaw = 0.85 * float(np.arctan2(aside / seen, NOSE_AHEAD))
    aslant = abs(np.sin(yaw))  # the more a face is turned, the less its width says how large it is
    eyes = (1 - aslant) * seen / np.cos(yaw) + aslant * float(drop)
    pitch = 0.7 * (nose_down / drop - NOSE_DOWN) * drop / eyes / NOSE_AHEAD
    box_chin = np.clip((detection.box[3] - origin[1]) / drop, CHIN_DOWN - 0.15, CHIN_DOWN + 0.2)
    chin = (CHIN_DOWN + float(box_chin)) / 2
    return HeadPose(origin, across, eyes, float(drop), yaw, float(np.clip(pitch, -0.3, 0.3)), chin)


@dataclasses.dataclass(frozen=True)
class Sheet:
    """A mask on the unrolled cylinder, `scale` pixels to one.

    `cover` and `shade` are (height, width), 0 to 1 or a little more, `colour` is the cloth's,
    (height, width, 3) RGB, 0 to 1.
    """

    scale: float
    cover: Floats
    colour: Floats
    shade: Floats


@dataclasses.dataclass(frozen=True)
class Mask:
    """A kind of mask; `outline` is its right half, (n, 2) on the unrolled cylinder."""

    kind: Kind
    wear: Wear
    colour: Floats
    outline: Floats
    tilt: float

    @property
    def top(self) -> float:
        return float(self.outline[0, 1])

    @property
    def height(self) -> float:
        return float(self.outline[-1, 1] - self.outline[0, 1])

    def contour(self) -> Floats:
        """The whole outline, smooth and closed, (n, 2)."""
        return self.leaning(mirrored(self.outline))

    def leaning(self, points: Floats) -> Floats:
        """Points moved as the mask hangs askew."""
        return points + np.float32((0, self.tilt)) * points[:, :1]


def chosen_mask(wear: Wear, chin: float, rng: np.random.Generator) -> Mask:
    """A mask of a random kind, colour and size, worn as `wear` says on a face with this `chin`."""
    kind = KINDS[rng.choice(len(KINDS), p=SHARES)]
    top, bottom = {
        "right": (rng.uniform(0.12, 0.44), chin + rng.uniform(-0.06, 0.16)),
        "under nose": (rng.uniform(0.74, 0.88), chin + rng.uniform(0, 0.25)),
        "on chin": (rng.uniform(1.2, 1.42), chin + rng.uniform(0.15, 0.4)),
        "over mouth": (rng.uniform(0.74, 0.84), rng.uniform(1.22, chin - 0.3)),
    }[wear]
    half = np.array(OUTLINES[kind], np.float32)
    half[:, 0] *= rng.uniform(0.92, 1.06)
    # What doesn't reach the nose hangs by straps that pull its sides up to the ears.
    lift = 0 if wear == "right" else 0.16 * np.minimum(half[:, 0], 0.85)
    half[:, 1] = top + half[:, 1] * (bottom - top) - lift
    half[1:-1] += rng.normal(0, 0.012, half[1:-1].shape)
    return Mask(kind, wear, cloth_colour(kind, rng), half, rng.normal(0, 0.02))


def cloth_colour(kind: Kind, rng: np.random.Generator) -> Floats:
    """Draw a usual colour of this kind of mask, RGB 0 to 1."""
    shares = COLOURS[kind]
    choice = rng.choice(len(USUAL) + 1, p=(*shares, 1 - sum(shares)))
    colour = np.array(USUAL[choice]) if choice < len(USUAL) else rng.uniform(0.15, 0.85, 3)
    if choice == len(USUAL):  # any, but dyes are seldom garish
        colour += rng.uniform(0, 0.8) * (colour.mean() - colour)
    return np.clip(colour + rng.normal(0, 0.025, 3) + rng.normal(0, 0.03), 0.03, 1).astype(
        np.float32
    )


def flat_sheet(mask: Mask, scale: float, rng: np.random.Generator) -> Sheet:
    """The mask's cloth on the unrolled cylinder."""
    first, last, top, bottom = FLAT
    across = np.arange(first, last, 1 / scale, dtype=np.float32)
    down = np.arange(top, bottom, 1 / scale, dtype=np.float32)
    around, down = np.meshgrid(across, down)
    cover = np.zeros(around.shape, np.uint8)
    cv2.fillPoly(cover, [_on_sheet(mask.contour(), scale)], 255, cv2.LINE_AA, 4)
    colour = np.broadcast_to(_pattern(mask, around, down, rng), (*around.shape, 3)).copy()
    down = down - mask.tilt * around
    shade = _shade(mask, around, (down - mask.top) / mask.height, rng)
    _seams(mask, colour, shade, scale, rng)
    return Sheet(scale, cover.astype(np.float32) / 255, colour, shade)


def _on_sheet(points: ArrayLike, scale: float) -> NDArray[np.int32]:
    """Points of the unrolled cylinder as OpenCV draws them: in sixteenths of the sheet's pixels."""
    pixels = (np.asarray(points) - (FLAT[0], FLAT[2])) * scale - 0.5
    return np.rint(pixels * 16).astype(np.int32)


def smooth_noise(
    shape: tuple[int, int], cells: tuple[int, int], rng: np.random.Generator
) -> Floats:
    """Noise (height, width) of variance 1 or less that changes over `cells` (down, across)."""
    noise = rng.standard_normal(cells).astype(np.float32)
    return cv2.resize(noise, shape[::-1], interpolation=cv2.INTER_CUBIC)


def _pattern(mask: Mask, around: Floats, down: Floats, rng: np.random.Generator) -> Floats:
    """The colour without light: RGB, or of every third cloth mask a picture (height, width, 3)."""
    if mask.kind != "cloth" or rng.random() < 0.45:
        return mask.colour
    count, angle = rng.uniform(14, 40), rng.choice((0.0, np.pi / 2, np.pi / 4))
    x = np.cos(angle) * 1.6 * around + np.sin(angle) * down
    y = np.cos(angle) * down - np.sin(angle) * 1.6 * around
    waves = np.sin(count * x), np.sin(count * y)
    amount = {
        "stripes": lambda: waves[0] > rng.uniform(-0.3, 0.6),
        "dots": lambda: waves[0] * waves[1] > rng.uniform(0.3, 0.6),
        "plaid": lambda: (waves[0] > 0.2) * 0.5 + (waves[1] > 0.2) * 0.5,
        "blots": lambda: smooth_noise(around.shape, (22, 22), rng) > 0.4,
    }[rng.choice(("stripes", "dots", "plaid", "blots"))]()
    other = cloth_colour("cloth", rng)
    return mask.colour + np.float32(amount)[..., None] * (other - mask.colour)


def _shade(mask: Mask, around: Floats, share: Floats, rng: np.random.Generator) -> Floats:
    """Light and dark of the cloth itself; `share` is 0 at the mask's top and 1 at its bottom."""
    shade = 1 + rng.uniform(0.02, 0.06) * smooth_noise(around.shape, (8, 6), rng)
    shade += rng.uniform(0.01, 0.04) * smooth_noise(around.shape, (26, 12), rng)
    shade -= rng.uniform(0.05, 0.25) * np.clip(share - 0.6, 0, 1)  # the chin's underside
    if mask.wear == "right":  # over the nose, whose sides lie lower
        ridge, upper = np.abs(around), np.clip(1 - 1.8 * share, 0, 1)
        shade += upper * (
            0.1 * np.exp(-((ridge / 0.09) ** 2)) - 0.12 * np.exp(-(((ridge - 0.24) / 0.1) ** 2))
        )
    if mask.kind == "fold":
        shade += rng.uniform(-0.1, 0.1) * np.tanh(around * 12)
    if mask.kind == "boat":
        shade += rng.uniform(0.03, 0.1) * (
            np.tanh((0.36 - share) * 14) - np.tanh((share - 0.68) * 14)
        )
    return shade


def _seams(
    mask: Mask, colour: Floats, shade: Floats, scale: float, rng: np.random.Generator
) -> None:
    """Draw pleats, seams, hems and a valve into the sheet."""
    x = np.linspace(-0.95, 0.95, 15)
    side = float(mask.outline[:, 0].max())

    def level(share: float, bow: float) -> Floats:
        line = np.stack([x * side, mask.top + mask.height * (share + bow * (1 - x**2))], axis=1)
        return mask.leaning(np.float32(line))

    deep = rng.uniform(0.1, 0.28)
    pleats = {"surgical": (0.3, 0.46, 0.62), "boat": (0.34, 0.68)}.get(mask.kind, ())
    for share in pleats:
        line = level(share + rng.normal(0, 0.015), rng.uniform(0.02, 0.1))
        _line(shade, line, scale, -deep, 0.035)
        _line(shade, line - (0, 0.035), scale, 0.5 * deep, 0.035)
    if mask.kind in ("fold", "cloth") and rng.random() < 0.8:
        middle = curve([(0, mask.top), (rng.normal(0, 0.01), 0.5), (0, 1)])
        middle[:, 1] = np.linspace(mask.top, mask.top + mask.height, len(middle))
        _line(shade, middle, scale, -deep, 0.025)
    hem = mask.contour() * (0.97, 1) + (0, 0.01)
    _line(shade, np.concatenate([hem, hem[:1]]), scale, rng.uniform(-0.15, 0.06), 0.04)
    if mask.kind in ("fold", "cup") and rng.random() < 0.35:
        _valve(mask, colour, shade, scale, rng)


def _line(shade: Floats, points: ArrayLike, scale: float, amount: float, width: float) -> None:
    """Brighten, or darken where `amount` is below 0, a soft line of this `width`."""
    drawn = np.zeros(shade.shape, np.uint8)
    thick = max(1, round(width * scale))
    cv2.polylines(drawn, [_on_sheet(points, scale)], False, 255, thick, cv2.LINE_AA, 4)
    soft = cv2.GaussianBlur(drawn, (0, 0), max(0.3, 0.3 * width * scale))
    shade += np.float32(amount / 255) * soft


def _valve(
    mask: Mask, colour: Floats, shade: Floats, scale: float, rng: np.random.Generator
) -> None:
    centre = rng.choice((-1, 1)) * rng.uniform(0.25, 0.36), mask.top + 0.58 * mask.height
    turn = np.linspace(0, 2 * np.pi, 24)[:, None]
    rim = np.concatenate([np.cos(turn) * 0.13, np.sin(turn) * 0.17], axis=1) * rng.uniform(0.8, 1.1)
    rim *= min(1.0, mask.height)  # of a mask pushed up or down, less is to be seen
    disk = np.zeros(shade.shape, np.uint8)
    cv2.fillPoly(disk, [_on_sheet(rim + centre, scale)], 255, cv2.LINE_AA, 4)
    paint = np.float32(rng.uniform(0.4, 1) * np.array(WHITE))
    colour += np.float32(disk[..., None] / 255) * (paint - colour)
    _line(shade, rim + centre, scale, -0.25, 0.03)


@dataclasses.dataclass(frozen=True)
class Appearance:
    """Light, blur and noise of a photo around its face, which the drawn cloth must match.

    `light` (height, width) is the face's brightness, 1 on average; `white` what white paper would
    show, RGB from 0 to 1; `blur` the edges' and `noise` the grain's standard deviation, in pixels
    and from 0 to 255; `colourless` photos have no hues.
    """

    light: Floats
    white: Floats
    blur: float
    noise: float
    colourless: bool

    def lit(self, colour: Floats, light: Floats) -> Floats:
        """`colour` (…, 3), 0 to 1, under this `light` (height, width): RGB, 0 to 255."""
        shown = 255 * colour * light[..., None] * self.white
        return shown.mean(axis=2, keepdims=True).repeat(3, axis=2) if self.colourless else shown

    def pictured(self, colour: Floats, light: Floats, rng: np.random.Generator) -> Floats:
        """`lit`, and blurred and grainy as the photo is."""
        shown = self.lit(cv2.GaussianBlur(colour, (0, 0), self.blur), light)
        grain = cv2.GaussianBlur(rng.standard_normal(light.shape, np.float32), (0, 0), 0.5) * 1.7
        return shown + self.noise * grain[..., None]


def look_of(photo: NDArray[np.uint8], head: HeadPose, rng: np.random.Generator) -> Appearance:
    """The look of a (height, width, 3) uint8 RGB photo about the face."""
    x, y = (head.origin + head.axes[1] * 0.6 * head.drop).astype(int)
    reach = max(8, round(1.1 * head.eyes))
    rows, columns = slice(max(0, y - reach), y + reach), slice(max(0, x - reach), x + reach)
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY).astype(np.float32)
    face, part = photo[rows, columns].astype(np.float32), grey[rows, columns]
    broad = cv2.GaussianBlur(grey, (0, 0), 0.3 * head.eyes)
    light = np.clip(broad / max(1.0, float(broad[rows, columns].mean())), 0.4, 1.7) ** 0.7
    bright = max(0.3, float(np.percentile(part, 95)) / 255) * rng.uniform(0.95, 1.25)
    tint = face.mean(axis=(0, 1)) / max(1.0, float(part.mean()))
    white = np.clip(bright, 0.25, 1.05) * (1 + rng.uniform(0.1, 0.35) * (tint - 1))
    colourless = float(np.ptp(face, axis=2).mean()) < COLOURLESS
    return Appearance(light, np.float32(white), _blur_of(part), _noise_of(part), colourless)


def _blur_of(grey: Floats) -> float:
    """The standard deviation of the blur at the sharpest edges, in pixels.

    A further blur of 1 px makes an edge of blur s flatter by the factor s / sqrt(s² + 1).
    """
    again = cv2.GaussianBlur(grey, (0, 0), 1.0)
    steep, flatter = (
        float(np.percentile(np.abs(np.diff(part, axis=1)), 99)) for part in (grey, again)
    )
    share = min(flatter / max(steep, 1e-3), 0.94)
    return float(np.clip(FACE_EDGES * share / np.sqrt(1 - share**2), 0.4, 2.5))


def _noise_of(grey: Floats) -> float:
    """The grain's standard deviation (Immerkær 1996), of the calmer half of the pixels."""
    laplacian = np.float32([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])
    response = np.abs(cv2.filter2D(grey, cv2.CV_32F, laplacian))[1:-1, 1:-1]
    return float(np.clip(np.median(response) / 6 / 0.6745, 0.0, 12.0))


def draw_mask(
    photo: NDArray[np.uint8], detection: Detection, wear: Wear, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """The (height, width, 3) uint8 RGB photo of a bare face with a random mask, worn as `wear`.

    BadPhoto where `detection` has no face or one that no mask fits on.
    """
    head = head_of(detection)
    mask, look = chosen_mask(wear, head.chin, rng), look_of(photo, head, rng)
    sheet = flat_sheet(mask, float(np.clip(1.8 * head.eyes, 48, 400)), rng)
    box = _box(head, mask, photo.shape[:2])
    cover, cloth = _bent(head, sheet, box)
    straps = _straps(head, mask, box, rng)
    strap = mask.colour if mask.colour.sum() < 0.9 else np.float32(WHITE)
    area, light = photo[box].astype(np.float32), look.light[box]
    cover, straps = (cv2.GaussianBlur(part, (0, 0), look.blur) for part in (cover, straps))
    cloth = look.pictured(cloth, light, rng)
    dark = _shadow(np.maximum(cover, straps), head, rng)
    drawn = area * (1 - dark[..., None])
    drawn += straps[..., None] * (look.lit(0.85 * strap, light) - drawn)
    drawn += cover[..., None] * (cloth - drawn)
    return with_part(photo, box, drawn, np.maximum(np.maximum(cover, straps), dark))


def with_part(
    photo: NDArray[np.uint8], box: tuple[slice, slice], drawn: Floats, cover: Floats
) -> NDArray[np.uint8]:
    """The photo with the part in `box` replaced by `drawn` where `cover`, 0 to 1, isn't nothing."""
    result, touched = photo.copy(), cover > 0.01
    result[box][touched] = np.rint(np.clip(drawn, 0, 255)).astype(np.uint8)[touched]
    return result


def fine_points(points: ArrayLike, corner: ArrayLike) -> NDArray[np.int32]:
    """Points of a photo as OpenCV draws them on a part that begins at `corner`, FINE times as large."""
    return np.rint(((np.asarray(points) - corner + 0.5) * FINE - 0.5) * 16).astype(np.int32)


def _box(head: HeadPose, mask: Mask, shape: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of the photo that mask, straps and shadow can reach."""
    corners = [(a, d) for a in (-1, -0.5, 0, 0.5, 1) for d in (0, 1, mask.top + mask.height + 0.1)]
    points = head.placed(corners)[0]
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    wide, (height, width) = 0.35 * head.eyes + 4, shape
    rows = slice(int(np.clip(top - wide, 0, height - 1)), int(np.clip(bottom + wide, 1, height)))
    return rows, slice(
        int(np.clip(left - wide, 0, width - 1)), int(np.clip(right + wide, 1, width))
    )


def _bent(head: HeadPose, sheet: Sheet, box: tuple[slice, slice]) -> tuple[Floats, Floats]:
    """The sheet bent round the head: cover (height, width) and shaded colour (height, width, 3)."""
    rows, columns = box
    size = columns.stop - columns.start, rows.stop - rows.start
    pixels = np.meshgrid(np.arange(columns.start, columns.stop), np.arange(rows.start, rows.stop))
    around, down, facing = head.unrolled(*map(np.float32, pixels))
    places = (around - FLAT[0]) * sheet.scale - 0.5, (down - FLAT[2]) * sheet.scale - 0.5
    x, y, facing = (cv2.resize(part, None, fx=FINE, fy=FINE) for part in (*places, facing))
    layers = np.dstack([sheet.colour * sheet.shade[..., None], sheet.cover])
    fine = cv2.remap(layers, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    fine[..., :3] *= (0.72 + 0.28 * np.sqrt(facing))[..., None]
    fine[..., 3] *= facing > 0.02
    bent = cv2.resize(fine, size, interpolation=cv2.INTER_AREA)
    return bent[..., 3], bent[..., :3]


def _straps(
    head: HeadPose, mask: Mask, box: tuple[slice, slice], rng: np.random.Generator
) -> Floats:
    """Coverage of each pixel of the box by straps, 0 to 1: from the mask's corners to the ears."""
    rows, columns = box
    size = rows.stop - rows.start, columns.stop - columns.start
    drawn = np.zeros((size[0] * FINE, size[1] * FINE), np.uint8)
    corner = np.array((columns.start, rows.start))
    wide = max(1, round(FINE * head.eyes * rng.uniform(0.025, 0.05)))
    side = int(mask.outline[:, 0].argmax())
    ear = rng.uniform(0.05, 0.3), rng.uniform(0.45, 0.7)
    for sign in (-1, 1):
        for point, end in zip((side - 1, side + 1), ear, strict=True):
            start = mask.outline[point] * (sign, 1)
            bend = (start[0] + sign) / 2, (start[1] + end) / 2 + rng.uniform(-0.02, 0.04)
            line = curve([start * (0.95, 1), bend, (sign * 1.05, end)])
            points, seen = head.placed(mask.leaning(line))
            cv2.polylines(
                drawn, [fine_points(points[seen], corner)], False, 255, wide, cv2.LINE_AA, 4
            )
    amount = 0.9 * np.float32(drawn) / 255 * (mask.kind != "sponge")
    return cv2.resize(amount, size[::-1], interpolation=cv2.INTER_AREA)


def _shadow(cover: Floats, head: HeadPose, rng: np.random.Generator) -> Floats:
    """Shadow on the skin beside the mask, 0 to 1, strongest below its edge."""
    fall = np.float32([[1, 0, rng.normal(0, 0.015) * head.eyes], [0, 1, 0.035 * head.eyes]])
    moved = cv2.warpAffine(cover, fall, cover.shape[::-1])
    soft = cv2.GaussianBlur(moved, (0, 0), max(0.5, 0.04 * head.eyes))
    return rng.uniform(0.2, 0.5) * np.clip(soft - cover, 0, 1) * (soft > 0.02)
