"""People of the demo: traits drawn at random, some of which depend on gender and age.

The signs of age come on smoothly with the years, but nobody looks exactly as old as they are; the
signs of gender overlap. Both tasks can therefore be learned, but not to the last photo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from common.data.layout import GENDERS

Gender = Literal["male", "female"]
Colour = tuple[float, float, float]

BAND_AGES = (range(18, 30), range(30, 60), range(60, 76))
SKINS = ((246, 214, 192), (232, 190, 160), (205, 155, 120), (152, 106, 80), (104, 70, 54))
HAIRS = ((24, 20, 22), (48, 34, 28), (88, 58, 40), (186, 146, 92), (128, 58, 32))
IRISES = ((52, 34, 24), (46, 30, 22), (78, 52, 34), (92, 110, 76), (86, 116, 146))
# fmt: off
CLOTHES = (
    (40, 44, 60), (236, 236, 232), (120, 30, 40), (60, 90, 130), (80, 110, 80), (190, 160, 120)
)
# fmt: on


@dataclass(frozen=True)
class DrawnPerson:
    """Traits that are the same on all photos of one person.

    Lengths are in face units, colours RGB from 0 to 255; everything else is a strength from 0
    (absent) to 1 (as strong as it gets).
    """

    gender: Gender
    age: int
    skin: Colour
    hair: Colour
    iris: Colour
    clothes: Colour
    lips: float  # how red they are
    lip_height: float
    lashes: float
    face_length: float  # 1 is the average
    jaw: float  # half-width
    chin: float  # half-width
    neck: float  # half-width
    shoulders: float  # half-width
    brow_height: float  # thickness
    brow_arch: float
    eye_width: float
    eye_height: float
    eye_distance: float
    nose_width: float
    mouth_width: float
    beard: float
    hair_length: float  # 0 ends above the ears, 1 below the shoulders
    tied: bool
    fringe: float
    parting: float  # -1 left, 1 right
    wrinkles: float
    sagging: float
    grey: float
    recession: float
    spots: float
    detail: int  # seed of the wrinkles' and spots' places


def stage(years: float, middle: float, width: float) -> float:
    """Progress of a sign of age: 0 long before `middle`, 0.5 there, 1 long after."""
    return float(1 / (1 + np.exp((middle - years) / width)))


def draw_age(rng: np.random.Generator, band: int) -> int:
    """An age in years within band 0 (<30), 1 (30–59) or 2 (≥60).

    Nobody can tell 29 from 30, so only a few stand within two years of a border.
    """
    ages = np.array(BAND_AGES[band])
    from_border = np.minimum(np.abs(ages - 29.5), np.abs(ages - 59.5))
    weights = np.clip(from_border / 5, 0.15, 1) ** 1.5
    return int(rng.choice(ages, p=weights / weights.sum()))


def draw_person(
    rng: np.random.Generator, gender: Gender | None = None, band: int | None = None
) -> DrawnPerson:
    """A new person; `gender` and age `band` (0, 1, 2) are drawn too unless given."""
    gender = gender or GENDERS[rng.integers(2)]
    age = draw_age(rng, int(rng.integers(3)) if band is None else band)
    return DrawnPerson(
        gender=gender,
        age=age,
        **_colours(rng),
        **_gender_traits(rng, gender == "female"),
        **_hairstyle(rng, gender == "female"),
        **_age_traits(rng, gender == "female", age),
        face_length=rng.normal(1, 0.03),
        eye_distance=rng.normal(0.43, 0.015),
        nose_width=rng.normal(0.2, 0.02),
        mouth_width=rng.normal(0.38, 0.03),
        detail=int(rng.integers(2**31)),
    )


def _between(colours: Sequence[ArrayLike], where: float) -> Colour:
    """The colour at `where`, from 0 (the first) to 1 (the last)."""
    steps = np.linspace(0, 1, len(colours))
    red, green, blue = (float(np.interp(where, steps, c)) for c in np.transpose(colours))
    return red, green, blue


def picked(rng: np.random.Generator, colours: Sequence[ArrayLike]) -> Colour:
    """One of the colours, a little off."""
    colour = np.asarray(colours[rng.integers(len(colours))]) * rng.normal(1, 0.1)
    colour = np.clip(colour + rng.normal(0, 3, 3), 8, 250)
    return float(colour[0]), float(colour[1]), float(colour[2])


def _colours(rng: np.random.Generator) -> dict[str, Any]:
    hair = HAIRS[rng.choice(len(HAIRS), p=(0.36, 0.3, 0.2, 0.09, 0.05))]
    return {
        "skin": _between(SKINS, rng.beta(1.1, 1.6)),
        "hair": picked(rng, [hair]),
        "iris": picked(rng, IRISES),
        "clothes": picked(rng, CLOTHES),
    }


def _gender_traits(rng: np.random.Generator, female: bool) -> dict[str, Any]:
    def around(man: float, woman: float, spread: float, low: float, high: float) -> float:
        return float(np.clip(rng.normal(woman if female else man, spread), low, high))

    return {
        "lips": around(0.2, 0.65, 0.17, 0, 1),
        "lip_height": around(0.075, 0.105, 0.012, 0.05, 0.14),
        "lashes": around(0.15, 0.75, 0.15, 0, 1),
        "jaw": around(0.88, 0.76, 0.03, 0.68, 0.96),
        "chin": around(0.46, 0.33, 0.03, 0.25, 0.55),
        "neck": around(0.7, 0.52, 0.03, 0.4, 0.8),
        "shoulders": around(2.25, 1.8, 0.1, 1.5, 2.6),
        "brow_height": around(0.115, 0.06, 0.014, 0.035, 0.16),
        "brow_arch": around(0.03, 0.09, 0.02, 0, 0.15),
        "eye_width": around(0.205, 0.225, 0.01, 0.17, 0.26),
        "eye_height": around(0.086, 0.108, 0.012, 0.05, 0.14),
        "beard": 0.0 if female else float(rng.choice((0, 0.35, 1), p=(0.45, 0.3, 0.25))),
    }


def _hairstyle(rng: np.random.Generator, female: bool) -> dict[str, Any]:
    long = rng.random() < (0.84 if female else 0.06)
    return {
        "hair_length": rng.uniform(0.35, 1) if long else rng.uniform(0, 0.12),
        "tied": bool(female and rng.random() < 0.2),
        "fringe": rng.uniform(0.3, 1) if rng.random() < 0.3 else 0.0,
        "parting": rng.uniform(-1, 1),
    }


def _age_traits(rng: np.random.Generator, female: bool, age: int) -> dict[str, Any]:
    looks = age + rng.normal(0, 2)
    mature, old = stage(looks, 31, 2), stage(looks, 59.5, 2.2)
    dyed = rng.random() < (0.12 if female else 0.04)
    return {
        "wrinkles": 0.36 * mature + 0.4 * old + 0.24 * float(np.clip((looks - 18) / 57, 0, 1)),
        "sagging": 0.3 * mature + 0.7 * old,
        "grey": (0.15 if dyed else 1) * stage(looks + rng.normal(0, 3), 55, 4),
        "recession": rng.uniform(0.1, 0.3 if female else 1) * stage(looks, 45, 7),
        "spots": stage(looks, 60, 4) * rng.uniform(0.4, 1),
    }
