"""Mixup and CutMix: what is blended with what, and which labels count how much."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from age.recipe import AgeRecipe
from common.training.mixing import BatchMix, make_mix, partners
from mask.recipe import MaskRecipe

IMAGES = torch.randint(256, (6, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator())
LABELS = torch.tensor([0, 1, 2, 0, 1, 0])


def test_mixup_blends_each_photo_with_its_partner():
    np.random.seed(1)
    images, labels, others, share = BatchMix(0.4, 0)(IMAGES, LABELS)
    assert 0 < share < 1
    blend = share * IMAGES.float() + (1 - share) * IMAGES.float().flip(0)
    assert torch.allclose(images, blend, atol=1e-3)
    assert torch.equal(labels, LABELS) and torch.equal(others, LABELS.flip(0))


def test_cutmix_takes_a_box_whose_area_is_the_others_share():
    np.random.seed(3)
    images, _, _, share = BatchMix(0, 1.0)(IMAGES, LABELS)
    own, other = (images == x.float() for x in (IMAGES, IMAGES.flip(0)))
    assert (own | other).all()
    assert own.all(dim=1).float().mean().item() == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("width", [16, 15])
def test_cutmix_in_halves_takes_one_side_whole(width):
    seen = set()
    for seed in range(20):
        np.random.seed(seed)
        images, _, _, share = BatchMix(0, 1.0, halves=True)(IMAGES[..., :width], LABELS)
        middle, own, other = width // 2, IMAGES[..., :width].float(), IMAGES[..., :width].flip(0)
        left = torch.cat([other[..., :middle].float(), own[..., middle:]], dim=3)
        right = torch.cat([own[..., :middle], other[..., middle:].float()], dim=3)
        side = [torch.equal(images, left), torch.equal(images, right)]
        assert side.count(True) == 1
        assert share == pytest.approx([(width - middle) / width, middle / width][side.index(True)])
        seen.add(side.index(True))
    assert seen == {0, 1}


def test_halves_are_chosen_beside_mixup():
    """Half of the batches are blended as by mixup alone."""
    kinds = []
    for seed in range(40):
        np.random.seed(seed)
        images, _, _, share = BatchMix(0.4, 1.0, halves=True)(IMAGES, LABELS)
        blend = share * IMAGES.float() + (1 - share) * IMAGES.float().flip(0)
        kinds.append(share != 0.5 and torch.allclose(images, blend, atol=1e-3))
    assert 10 < sum(kinds) < 30


@given(st.lists(st.integers(0, 2), min_size=1, max_size=24))
def test_partners_are_of_one_class(classes):
    """Only odd ones out are missing, at most one of each class."""
    labels = torch.tensor(classes)
    order = partners(labels)
    assert torch.equal(labels[order], labels[order].flip(0))
    assert len(set(order.tolist())) == len(order)
    assert len(labels) - len(order) <= len(set(classes))
    odd = sum(classes.count(c) % 2 for c in set(classes))
    assert len(order) == len(labels) - odd + min(odd, 1)


def test_years_are_blended_within_their_group():
    mix = make_mix(AgeRecipe(loss="dldl", mixup=0.4, mix_within_class=True))
    years = torch.tensor([18, 31, 60, 25, 45, 29])
    _, one, other, _ = mix(IMAGES, years)
    bands = [[(y >= 30) + (y >= 60) for y in part.tolist()] for part in (one, other)]
    assert bands[0] == bands[1]
    assert set(one.tolist()) <= set(years.tolist())


def test_nothing_is_mixed_unless_asked():
    assert make_mix(MaskRecipe()) is None
    assert make_mix(MaskRecipe(cutmix=1.0)) is not None
