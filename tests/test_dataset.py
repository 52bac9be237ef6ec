"""common/data/dataset.py: crops for all photos, and batches that chance can't change."""

import itertools
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from age.recipe import AgeRecipe
from common.base.errors import UserError
from common.data.dataset import FaceDataset, PersonSampler, SeededSampler, make_loader, to_tensor
from common.data.layout import Face
from common.data.loading import Prepared, prepare_crops
from common.faces.crop import CropSpec
from common.model.recipe import Recipe
from gender.recipe import GenderRecipe
from mask.recipe import MaskRecipe

WHOLE = CropSpec("none", 0, (32, 32))
BATCH = 4


@pytest.fixture(scope="module")
def prepared(faces: tuple[Face, ...], tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Crops of 64 x 64 of the first 14 photos; read only."""
    folder = tmp_path_factory.mktemp("crops")
    paths = [face.path for face in faces[:14]]
    return prepare_crops(paths, CropSpec("face", 0.3, (64, 64)), folder, workers=0)


@pytest.fixture
def dataset(prepared: Prepared) -> FaceDataset:
    """The 14 crops; a photo's label is its place."""
    return FaceDataset(prepared.files, range(14), [MaskRecipe().augment()] * 14)


def write_photos(folder: Path, count: int) -> list[Path]:
    """Photos of one colour each, by which they can be told."""
    folder.mkdir()
    paths = [folder / f"{number:03d}.png" for number in range(count)]
    for number, path in enumerate(paths):
        Image.new("RGB", (40, 50), (number, 255 - number, 0)).save(path)
    return paths


def colours(files: list[Path | None]) -> list[int | None]:
    return [file and int(FaceDataset([file], [0])[0][0][0, 0, 0]) for file in files]


def epochs(dataset: FaceDataset, workers: int, count: int = 2) -> list[tuple[torch.Tensor, ...]]:
    """All batches of `count` epochs of training."""
    sampler = SeededSampler(len(dataset), seed=5)
    loader = make_loader(dataset, BATCH, workers=workers, sampler=sampler)
    batches = []
    for sampler.epoch in range(count):
        batches += [tuple(batch) for batch in loader]
    return batches


def same(one: list[tuple[torch.Tensor, ...]], other: list[tuple[torch.Tensor, ...]]) -> bool:
    pairs = zip(itertools.chain(*one), itertools.chain(*other), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# Crops


def test_crops_are_counted(prepared: Prepared) -> None:
    assert len(prepared.files) == 14 == len(set(prepared.files)) and prepared.bad == []
    assert prepared.detected + prepared.fallback == 14 and prepared.detected >= 12
    detected, fallback = prepared.detected, prepared.fallback
    assert prepared.summary(True) == (
        f"14 photos: {detected} faces, {fallback} centre crops, 0 failed"
    )


def test_photos_without_a_face_are_counted_apart(tmp_path: Path) -> None:
    paths = write_photos(tmp_path / "photos", 2)
    blank = prepare_crops(paths, CropSpec("face", 0, (32, 32)), tmp_path / "cache", workers=0)
    assert (blank.detected, blank.fallback) == (0, 2)
    whole = prepare_crops(paths, WHOLE, tmp_path / "cache", workers=0)
    assert (whole.detected, whole.fallback) == (0, 0)
    assert whole.summary(False) == "2 photos: 2 crops, 0 failed"


@pytest.mark.parametrize("workers", [0, 2])
def test_crops_come_in_the_order_of_the_photos(workers: int, tmp_path: Path) -> None:
    """Bad ones leave a gap; 70 photos are more than the batch of each process."""
    paths = write_photos(tmp_path / "photos", 70)
    paths[40].write_bytes(b"")
    ready = prepare_crops(paths, WHOLE, tmp_path / "cache", workers=workers, allow_bad=1)
    assert colours(ready.files) == [None if number == 40 else number for number in range(70)]
    assert ready.bad == [(paths[40], "empty file")]
    assert ready.summary(False) == "70 photos: 69 crops, 1 failed"


def test_all_bad_photos_are_listed_at_once(tmp_path: Path) -> None:
    paths = write_photos(tmp_path / "photos", 40)
    for path in paths[5:35]:
        path.write_bytes(b"<html>")
    paths[3].unlink()
    for allowed in (0, 30):
        with pytest.raises(UserError) as error:
            prepare_crops(paths, WHOLE, tmp_path / "cache", workers=0, allow_bad=allowed)
        first, *lines = str(error.value).split("\n")
        assert first == (
            f"31 of 40 photos can't be used and {allowed} are allowed "
            "(--allow-bad 31 goes on without them)"
        )
        assert lines[0] == f"  {paths[3]}: no such file"
        assert [line.partition(": ")[0] for line in lines[1:]] == [f"  {p}" for p in paths[5:35]]
    ready = prepare_crops(paths, WHOLE, tmp_path / "cache", workers=0, allow_bad=31)
    assert [p for p, file in zip(paths, ready.files, strict=True) if file is None] == [
        paths[3], *paths[5:35],
    ]  # fmt: skip


def test_a_cache_that_cannot_be_written_is_a_warning_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "file").touch()
    paths = write_photos(tmp_path / "photos", 3)
    ready = prepare_crops(paths, WHOLE, tmp_path / "file", workers=0)
    assert colours(ready.files) == [0, 1, 2]
    assert f"warning: {tmp_path / 'file'}: " in capsys.readouterr().err


# Items


def test_an_item_is_a_tensor_of_rgb_and_a_label(tmp_path: Path) -> None:
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    tensor = to_tensor(image)
    assert tensor.dtype == torch.uint8 and tensor.shape == (3, 2, 3)
    assert tensor[2, 1, 0] == image[1, 0, 2]
    paths = write_photos(tmp_path / "photos", 8)
    files = prepare_crops(paths, WHOLE, tmp_path / "cache", workers=0).files
    item, label = FaceDataset(files, [3] * 8)[7]
    assert label == 3 and item.shape == (3, 32, 32)
    assert item.flatten(1).unique(dim=1).flatten().tolist() == [7, 248, 0]


EVERYTHING = ("own", "light", "rotate", "jitter", "equalize", "autoaugment", "randaugment")


@pytest.mark.parametrize(
    "recipe", [MaskRecipe(), GenderRecipe(), AgeRecipe(), AgeRecipe(aug=EVERYTHING, reprob=0.5)]
)
def test_a_seed_decides_the_augmentation(recipe: Recipe, prepared: Prepared) -> None:
    dataset = FaceDataset(prepared.files, range(14), [recipe.augment()] * 14)
    plain = FaceDataset(prepared.files, range(14))
    seeds = (*range(30), 2**32 - 1)
    first = [dataset[0, seed][0] for seed in seeds]
    fresh = FaceDataset(prepared.files, range(14), [recipe.augment()] * 14)
    again = [fresh[0, seed][0] for seed in reversed(seeds)][::-1]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({image.numpy().tobytes() for image in first}) > 10
    assert {image.shape for image in first} == {(3, 64, 64)}
    assert torch.equal(dataset[0][0], plain[0][0]), "without a seed nothing is changed"
    assert torch.equal(plain[0, 1][0], plain[0][0])


def test_a_crop_that_is_gone_is_never_replaced_by_another(tmp_path: Path) -> None:
    for name, content in (("gone.png", None), ("bad.png", b"\x89PNG")):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=re.escape(f"{tmp_path / name}: ") + ".*crop anew"):
            FaceDataset([tmp_path / name], [0])[0]


# Order and batches


def test_workers_change_nothing(dataset: FaceDataset) -> None:
    assert same(epochs(dataset, workers=0), epochs(dataset, workers=2))


def test_every_epoch_has_its_own_order_and_augmentation(dataset: FaceDataset) -> None:
    batches = epochs(dataset, workers=0)
    half = len(batches) // 2
    orders = [torch.cat([labels for _, labels in part]).tolist()
              for part in (batches[:half], batches[half:])]  # fmt: skip
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1]) == list(range(14))
    images = [dict(zip(order, torch.cat([i for i, _ in part]), strict=True))
              for order, part in zip(orders, (batches[:half], batches[half:]), strict=True)]  # fmt: skip
    assert sum(not torch.equal(images[0][n], images[1][n]) for n in range(14)) > 5


def drawn(seed: int, epoch: int, start: int = 0, length: int = 50) -> list[tuple[int, int]]:
    sampler = SeededSampler(length, seed)
    sampler.epoch, sampler.start = epoch, start
    assert len(sampler) == max(0, length - start)
    return list(sampler)


def test_order_and_seeds_follow_from_seed_and_epoch_alone() -> None:
    np.random.default_rng().random()
    orders = {(seed, epoch): drawn(seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)}
    assert all(orders[key] == drawn(*key) for key in orders)
    assert all(sorted(index for index, _ in order) == list(range(50)) for order in orders.values())
    assert len({tuple(index for index, _ in order) for order in orders.values()}) == 6
    seeds = [seed for order in orders.values() for _, seed in order]
    assert len(set(seeds)) == 300 and min(seeds) >= 0 and max(seeds) < 2**32


@given(st.lists(st.sampled_from("aabcccccc"), min_size=1, max_size=40), st.integers(0, 9))
def test_groups_are_drawn_equally_often(groups: list[str], epoch: int) -> None:
    sampler = SeededSampler(len(groups), 0, groups)
    drawn_from = dict.fromkeys(groups, 0.0)
    for group, weight in zip(groups, sampler.weights, strict=True):
        drawn_from[group] += weight
    assert all(share == pytest.approx(1 / len(drawn_from)) for share in drawn_from.values())
    sampler.epoch = epoch
    order = [index for index, _ in sampler]
    assert len(order) == len(groups) and set(order) <= set(range(len(groups)))


def test_a_rare_group_is_drawn_as_often_as_a_large_one() -> None:
    groups = ["rare"] * 10 + ["large"] * 990
    counts = np.zeros(2)
    sampler = SeededSampler(1000, 1, groups)
    for sampler.epoch in range(20):
        order = np.array([index for index, _ in sampler])
        counts += (order < 10).sum(), (order >= 10).sum()
    assert counts[0] / counts.sum() == pytest.approx(0.5, abs=0.02)


PERSONS = st.lists(st.integers(0, 12), min_size=1, max_size=60)


def order_of(sampler: SeededSampler, epoch: int = 0) -> list[int]:
    sampler.epoch = epoch
    return [index for index, _ in sampler]


@given(PERSONS, st.integers(1, 80), st.integers(0, 3))
def test_a_round_of_people_takes_every_photo_once(
    people: list[int], batch: int, epoch: int
) -> None:
    """Whatever the people have: one photo, many, or all photos."""
    order = order_of(PersonSampler(people, 0, batch), epoch)
    assert sorted(order) == list(range(len(people)))


@given(persons=st.integers(2, 30), photos=st.integers(2, 8), data=st.data())
def test_no_batch_holds_a_person_twice(persons: int, photos: int, data: st.DataObject) -> None:
    """Wherever it begins: there are batch - 1 photos of others between two of the same person."""
    batch = data.draw(st.integers(1, persons - 1))
    people = np.array(data.draw(st.permutations(list(range(persons)) * photos)))
    sampler = PersonSampler(people.tolist(), 1, batch)
    for epoch in range(5):
        seen = people[order_of(sampler, epoch)]
        assert all(np.diff(np.flatnonzero(seen == p)).min() >= batch for p in range(persons))


def test_photos_of_a_person_are_spread_over_the_epoch() -> None:
    """Persons with 14 photos, with 7 and with 1: each stretch of the epoch has its share."""
    people = [*range(10)] * 14 + [*range(10, 40)] * 7 + [*range(40, 60)]
    seen = np.array(people)[order_of(PersonSampler(people, 0, 16))]
    for first in range(0, len(seen) - 54, 54):  # a seventh
        counts = np.bincount(seen[first : first + 54], minlength=60)
        assert counts[:10].min() >= 1 and counts[:10].max() <= 3
        assert counts[10:40].max() <= 2 and counts[10:40].sum() == pytest.approx(30, abs=7)


def test_people_meet_others_in_every_round_and_epoch() -> None:
    """Else a batch would hold the same people again and again."""
    people = [*range(40)] * 7
    sampler = PersonSampler(people, 3, 8)
    rounds = [
        tuple(people[i] for i in order[start : start + 40])
        for order in (order_of(sampler, 0), order_of(sampler, 1))
        for start in range(0, 280, 40)
    ]
    assert len(set(rounds)) == 14
    pairs = [{frozenset(pair) for pair in itertools.pairwise(turn)} for turn in rounds]
    shared = [len(one & other) for one, other in itertools.combinations(pairs, 2)]
    assert np.mean(shared) < 10, "of 39 neighbours in a round"
    assert order_of(sampler, 0) == order_of(PersonSampler(people, 3, 8), 0)
    sampler.start = 24
    assert order_of(sampler, 1) == order_of(PersonSampler(people, 3, 8), 1)[24:]


@pytest.mark.parametrize("start", [0, 1, 12, 49, 50, 52])
def test_a_resumed_epoch_goes_on_where_it_was(start: int) -> None:
    assert drawn(3, 1, start) == drawn(3, 1)[start:]


def test_a_resumed_loader_yields_the_batches_that_were_left(dataset: FaceDataset) -> None:
    whole = epochs(dataset, workers=0, count=1)
    sampler = SeededSampler(len(dataset), seed=5)
    loader = make_loader(dataset, BATCH, workers=0, sampler=sampler)
    sampler.start = 2 * BATCH
    assert same([tuple(batch) for batch in loader], whole[2:])


@pytest.mark.parametrize(
    ("photos", "training"),
    [(1, [1]), (4, [4]), (5, [4]), (6, [4, 2]), (9, [4, 4]), (12, [4, 4, 4])],
)
def test_only_a_last_single_photo_is_left_out_and_only_in_training(
    photos: int, training: list[int], prepared: Prepared
) -> None:
    """Batch normalisation can't learn from one; validation keeps every row in its order."""
    dataset = FaceDataset(prepared.files[:photos], range(photos))
    sampler = SeededSampler(photos, seed=0)
    loader = make_loader(dataset, BATCH, workers=0, sampler=sampler)
    assert [len(labels) for _, labels in loader] == training and len(loader) == len(training)
    validation = [label for _, labels in make_loader(dataset, BATCH, workers=0) for label in labels]
    assert validation == list(range(photos))


def test_loaders_leave_the_global_random_state_alone(dataset: FaceDataset, tmp_path: Path) -> None:
    paths = write_photos(tmp_path / "photos", 2)
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    epochs(dataset, workers=0)
    list(make_loader(dataset, BATCH, workers=0))
    prepare_crops(paths, WHOLE, tmp_path / "cache", workers=0)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()
