"""Augmentation: each block does what it is named for and leaves the label's place alone."""

from collections import Counter
from functools import partial

import albumentations as A
import numpy as np
import pytest

from age.recipe import AgeRecipe
from common.data.dataset import augmented
from common.model.augmentation import Erasing
from common.model.recipe import AUGMENTATIONS, Recipe
from gender.recipe import GenderRecipe
from mask.recipe import MaskRecipe

IMAGE = np.random.default_rng(0).integers(60, 190, (32, 24, 3), dtype=np.uint8)


def views(recipe: Recipe, number: int = 40, *, rare: bool = False) -> list[np.ndarray]:
    compose = recipe.augment(rare=rare)
    images = []
    for seed in range(number):
        images.append(augmented(compose, IMAGE, seed))
    assert {(image.shape, image.dtype) for image in images} == {(IMAGE.shape, IMAGE.dtype)}
    return images


def changed(images: list[np.ndarray]) -> float:
    return np.mean([not np.array_equal(image, IMAGE) for image in images])


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_block_changes_photos_except_none(name):
    share = changed(views(AgeRecipe(aug=(name,))))
    assert share == 0 if name == "none" else 0.3 < share <= 1


def test_light_is_the_mirror_image_or_nothing():
    for image in views(GenderRecipe(aug=("light",))):
        assert np.array_equal(image, IMAGE) or np.array_equal(image, IMAGE[:, ::-1])


def test_blocks_are_added_up():
    both = views(GenderRecipe(aug=("jitter", "light")))
    assert any(not np.array_equal(image, IMAGE[:, ::-1]) for image in both)
    assert changed(both) > changed(views(GenderRecipe(aug=("light",))))


def test_equalize_leaves_half_as_they_are_and_widens_the_others():
    images = views(GenderRecipe(aug=("equalize",)), 200)
    assert 0.35 < changed(images) < 0.65
    assert all(np.ptp(i) > np.ptp(IMAGE) for i in images if not np.array_equal(i, IMAGE))


def test_exposure_changes_the_light_but_no_place_and_no_hue():
    """A red half stays red and where it was, while its brightness goes both ways."""
    halves = np.full((32, 24, 3), 60, np.uint8)
    halves[:16] = 160, 60, 60
    compose = GenderRecipe(aug=("exposure",)).augment()
    seen = np.stack([augmented(compose, halves, seed) for seed in range(100)]).astype(int)
    assert (seen == seen[:, :, :1]).all()
    assert (seen[:, :16] == seen[:, :1]).all() and (seen[:, 16:] == seen[:, 16:17]).all()
    red, grey = seen[:, 0, 0], seen[:, -1, 0]
    assert (red[:, 0] - red[:, 1:].max(axis=1)).min() > 30
    assert np.abs(grey - grey.mean(axis=1, keepdims=True)).max() < 0.08 * grey.max() + 1
    assert red[:, 0].min() < 0.85 * 160 and red[:, 0].max() > 1.15 * 160


def test_framing_moves_faces_up_rather_than_down_and_keeps_the_chin():
    """A spot where the chin lies is never lost, and mostly seen higher than it was."""
    spot = np.zeros((64, 64, 3), np.uint8)
    spot[52:58, 29:35] = 200
    compose = MaskRecipe(aug=("framing",)).augment()
    seen = [augmented(compose, spot, seed)[:, :, 0].astype(float) for seed in range(200)]
    assert min(image.max() for image in seen) > 150
    heights = [np.average(np.arange(64), weights=image.sum(axis=1)) for image in seen]
    assert 36 < min(heights) < np.mean(heights) - 3 < 50 < max(heights) < 63


def test_randaugment_grows_with_its_magnitude():
    def away(magnitude: int) -> float:
        recipe = AgeRecipe(aug=("randaugment",), randaugment_magnitude=magnitude)
        return np.mean([np.abs(image - IMAGE.astype(int)).mean() for image in views(recipe, 200)])

    weak, middle, strong = away(0), away(9), away(30)
    assert weak * 1.3 < middle < strong / 1.3


@pytest.mark.parametrize(("recipe", "lowest"), [(MaskRecipe, 16), (AgeRecipe, 32)])
def test_erasing_stays_above_the_mask(recipe, lowest):
    """In the mask task no pixel of the lower half changes; elsewhere any may."""
    rows = [
        np.abs(image.astype(int) - IMAGE).any(axis=(1, 2)).nonzero()[0]
        for image in views(recipe(aug=("none",), reprob=1.0), 200)
    ]
    reached = max(row.max() for row in rows if len(row))
    assert lowest - 4 <= reached < lowest
    assert sum(len(row) > 0 for row in rows) > 150


def test_erasing_follows_its_probability():
    assert changed(views(AgeRecipe(aug=("none",), reprob=0.25), 400)) == pytest.approx(
        0.25, abs=0.08
    )
    assert Erasing(1.0, p=0.25).p == 0.25


def test_rare_photos_are_cropped_too():
    recipe = GenderRecipe(aug=("none",), size=IMAGE.shape[:2])
    assert changed(views(recipe)) == 0
    assert changed(views(recipe, rare=True)) > 0.9


def marked(image: np.ndarray, *, by: int, **_: object) -> np.ndarray:
    return image + np.uint8(by)


def test_transforms_come_independently_of_each_other():
    """Three transforms, each with probability .5: an eighth of the photos gets all, an eighth none."""
    steps = A.Compose([A.Lambda(image=partial(marked, by=k), p=0.5) for k in (1, 2, 4)])
    black = np.zeros((4, 4, 3), np.uint8)
    found = Counter(int(augmented(steps, black, seed)[0, 0, 0]) for seed in range(2000))
    assert set(found) == set(range(8))
    assert all(200 < count < 300 for count in found.values())
