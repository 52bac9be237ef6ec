"""Several models and several views of a photo give one prediction; held-out scores are honest."""

import dataclasses
import time
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from age.recipe import AgeRecipe
from common.base.errors import UserError
from common.base.stages import Stages
from common.data.split import make_split
from common.inference.codes import Codes
from common.inference.decide import decide
from common.inference.ensemble import Ensemble
from common.inference.held_out import describe_numbers, honest_parts
from common.inference.options import PredictSettings
from common.inference.predictions import Predictions
from common.inference.predictor import predict
from common.inference.tta import views
from common.model.checkpoint import crop_spec
from common.model.loaded import LoadedModel
from common.model.recipe import Recipe
from common.model.weights import create_classifier
from gender.recipe import GenderRecipe
from mask.recipe import MaskRecipe

SMALL = {"model": "test_efficientnet", "pretrained": False, "crop": "none", "size": (64, 48)}


def random_model(recipe: type[Recipe] = AgeRecipe, sure: float = 1000, **fields) -> LoadedModel:
    """An untrained model, with answers that differ a lot between photos; `sure` scales logits."""
    own = recipe(**SMALL | fields)
    torch.manual_seed(own.seed)
    model, _ = create_classifier(own)
    with torch.no_grad():
        model.backbone.get_classifier().weight.mul_(sure)
    card = {"decision": {"temperature": 1.0}}
    return LoadedModel(model.eval(), own, crop_spec(own), card, Path(f"{own.seed}.pt"))


@pytest.fixture(scope="module")
def photos(faces, tmp_path_factory) -> list[Path]:
    """Ten drawn photos as PNG, and the first one's mirror image."""
    folder = tmp_path_factory.mktemp("photos")
    pixels = [cv2.imread(str(face.path)) for face in faces[:70:7]]
    for number, image in enumerate([*pixels, pixels[0][:, ::-1]]):
        cv2.imwrite(str(folder / f"{number:02}.png"), image)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    """Predict one task by an ensemble, of equal weights where none are given."""
    cache = tmp_path_factory.mktemp("cache")

    def call(paths, *models, vote="soft", weights=None, workers=0, **settings):
        ensemble = Ensemble(models, weights or (1.0,) * len(models), vote)
        own = PredictSettings(cache_dir=cache, workers=workers, **settings)
        return decide(predict(paths, {"any": ensemble}, own), {"any": ensemble}, {})

    return call


def shares(answers) -> np.ndarray:
    assert not answers.bad
    return answers.probabilities["any"]


@pytest.mark.parametrize("recipe", [MaskRecipe, GenderRecipe, AgeRecipe])
def test_random_views_depend_on_the_photo_alone(photos, ask, recipe):
    model = random_model(recipe)
    plain = shares(ask(photos, model))
    once = shares(ask(photos, model, tta=4))
    assert np.abs(once - plain).max() > 1e-3
    assert np.array_equal(once, shares(ask(photos, model, tta=4)))
    order = np.random.default_rng(0).permutation(len(photos))
    shuffled = ask([photos[i] for i in order], model, tta=4, batch_size=3, workers=1)
    np.testing.assert_allclose(shares(shuffled), once[order], atol=1e-5)
    alone = ask(photos[4:5], model, tta=4)
    np.testing.assert_allclose(shares(alone), once[4:5], atol=1e-5)


def test_a_task_has_test_time_augmentation_of_its_own(photos, ask):
    model, pair = random_model(), photos[:2]
    flipped = shares(ask(pair, model, tta="flip"))
    own = ask(pair, model, tta=3, ttas={"any": "flip"})
    assert np.array_equal(shares(own), flipped)
    assert np.array_equal(shares(ask(pair, model, tta="flip", ttas={"other": 3})), flipped)


def test_a_photo_and_its_mirror_image_get_the_same_probabilities(photos, ask):
    model, pair = random_model(), [photos[0], photos[-1]]
    plain, flipped = shares(ask(pair, model)), shares(ask(pair, model, tta="flip"))
    assert np.abs(plain[0] - plain[1]).max() > 1e-3
    np.testing.assert_allclose(flipped[0], flipped[1], atol=1e-6)


class InvertedRecipe(AgeRecipe):
    """Training would see every photo as its negative."""

    def augment(self) -> A.Compose:
        return A.Compose([A.InvertImg(p=1)])


def test_views_are_the_recipes_own_and_logits_are_averaged(photos, ask):
    model = random_model(InvertedRecipe, loss="dldl")
    crop = cv2.resize(cv2.imread(str(photos[0])), (48, 64), interpolation=cv2.INTER_AREA)
    clean = torch.from_numpy(crop[:, :, ::-1].transpose(2, 0, 1).copy())[None]
    logits = (model.logits(clean) + 2 * model.logits(255 - clean)) / 3
    expected = model.recipe.probabilities(logits).numpy()
    np.testing.assert_allclose(shares(ask(photos[:1], model, tta=3)), expected, atol=1e-6)


class NoisyRecipe(AgeRecipe):
    """Training would never see a photo without noise."""

    def augment(self) -> A.Compose:
        return A.Compose([A.GaussNoise(p=1)])


@given(st.integers(0, 2**32 - 2), st.integers(0, 2**32 - 1))
def test_what_is_drawn_differs_between_views_and_seeds_and_not_with_the_order(seed, photo):
    crops = np.random.default_rng(photo).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    recipe = NoisyRecipe(seed=seed)
    seen = list(views(crops, recipe, 5))
    assert np.array_equal(seen[0], crops)
    others = list(views(crops, NoisyRecipe(seed=seed + 1), 5))[1:]
    assert len({view.tobytes() for view in (*seen, *others)}) == 9
    swapped = views(crops[::-1], recipe, 5)
    assert all(np.array_equal(s, v[::-1]) for s, v in zip(swapped, seen, strict=True))
    crops[1], crops[1, 0, 0] = crops[0], 255 - crops[0, 0, 0]
    _, view = views(crops, recipe, 2)
    assert not np.array_equal(view[0, 1:], view[1, 1:])  # nearly alike, and yet drawn anew


def test_models_of_several_crops_and_recipes_predict_as_each_alone(photos, ask):
    models = [random_model(seed=1), random_model(seed=2, size=(48, 48)), random_model(seed=3)]
    alone = np.stack([shares(ask(photos, model, tta="flip")) for model in models])
    weights = (1.0, 2.0, 5.0)
    together = shares(ask(photos, *models, weights=weights, tta="flip"))
    expected = np.average(alone, axis=0, weights=weights)
    np.testing.assert_allclose(together, expected, atol=1e-6)


def test_a_hard_vote_changes_the_class_and_not_the_probabilities(photos, ask):
    models = [random_model(seed=seed, sure=10 ** (2 + 3 * (seed == 0))) for seed in range(3)]
    soft, hard = (ask(photos, *models, vote=vote) for vote in ("soft", "hard"))
    assert np.array_equal(shares(soft), shares(hard))
    assert np.array_equal(soft.classes["any"], shares(soft).argmax(axis=1))
    assert (soft.classes["any"] != hard.classes["any"]).any()


def test_a_model_without_numbers_makes_photos_bad_and_is_named(photos, ask):
    good, broken = random_model(seed=1), random_model(seed=2)
    with torch.no_grad():
        broken.model.backbone.get_classifier().bias.fill_(torch.inf)
    answers = ask(photos, good, broken, vote="hard")
    assert sorted(answers.bad) == list(range(len(photos)))
    assert answers.bad[0] == "the any model's output isn't a number (2.pt)"
    assert set(answers.classes["any"].tolist()) == {-1}


def test_joined_predictions_are_those_for_the_whole_list(photos, ask, tmp_path):
    model = random_model(crop="face")
    (tmp_path / "bad.png").write_bytes(b"half a photo")
    paths = [*photos[:3], tmp_path / "bad.png", *photos[3:6]]
    whole = ask(paths, model)
    together = Predictions.joined(
        [ask(paths[:2], model), ask(paths[2:5], model), ask(paths[5:], model)]
    )
    assert (together.bad, together.detected, together.faces) == (
        whole.bad,
        whole.detected,
        whole.faces,
    )
    assert list(together.bad) == [3]
    assert np.array_equal(together.regions, whole.regions, equal_nan=True)
    assert np.array_equal(together.classes["any"], whole.classes["any"])
    np.testing.assert_allclose(
        together.probabilities["any"], whole.probabilities["any"], atol=1e-6
    )  # fmt: skip


@pytest.mark.parametrize("batch_size", [1, 7])
def test_loaders_networks_and_batches_change_no_row_and_count_their_seconds(
    faces, tmp_path, batch_size
):
    models = [random_model(crop="face", seed=seed) for seed in range(2)]
    ensembles = {"a": Ensemble((models[0],), (1.0,)), "b": Ensemble(tuple(models), (1.0, 2.0))}
    (tmp_path / "bad.png").write_bytes(b"half a photo")
    paths = [face.path for face in faces[:50:2]]
    paths.insert(9, tmp_path / "bad.png")
    settings = PredictSettings(cache_dir=tmp_path / "cache", workers=0)
    expected = decide(predict(paths, ensembles, settings), ensembles, {})
    assert list(expected.bad) == [9]
    cut = {"read", "decode", "crop"}
    for cache, names in (("new", {*cut, "detect"}), ("cache", cut)):
        stages, start = Stages(), time.perf_counter()
        torch.set_num_threads(3)
        settings = PredictSettings(cache_dir=tmp_path / cache, workers=2, batch_size=batch_size)
        answers = decide(predict(paths, ensembles, settings, stages), ensembles, {})
        passed, threads = time.perf_counter() - start, torch.get_num_threads()
        torch.set_num_threads(1)
        assert threads == 3, "as it was"
        for task in ensembles:
            one, other = answers.probabilities[task], expected.probabilities[task]
            np.testing.assert_allclose(one, other, atol=1e-5)
        assert (answers.bad, answers.detected) == (expected.bad, expected.detected)
        assert np.array_equal(answers.regions, expected.regions, equal_nan=True)
        assert set(stages.seconds) == {*names, "networks"}
        assert 0 < stages.seconds["networks"] < 3 * passed
        assert 0 < sum(stages.seconds[name] for name in names) < 2 * passed


def held_out(faces, folds: list[int], limit: int | None = None) -> Ensemble:
    """Models that are never run, one for each of `folds` of 4."""
    people = {face.person for face in faces}
    splits = [make_split(people, folds=4, fold=fold, limit=limit)[1] for fold in folds]
    models = (
        LoadedModel(None, MaskRecipe(), None, {"split": split}, Path("x.pt")) for split in splits
    )
    return Ensemble(tuple(models), (1.0,) * len(folds))


CODES = Codes({"a": MaskRecipe.classes, "b": MaskRecipe.classes})
FOLDS = st.lists(st.integers(0, 3), min_size=1, max_size=5)


@given(FOLDS, FOLDS)
def test_nobody_is_scored_by_a_model_that_was_trained_on_them(data, faces, ours, theirs):
    ensembles = {"a": held_out(faces, ours), "b": held_out(faces, theirs)}
    if not set(ours) & set(theirs):
        with pytest.raises(UserError, match="held different people out"):
            honest_parts(data, ensembles, CODES)
        return
    scored = []
    for part in honest_parts(data, ensembles, CODES):
        people = {face.person.key for face in part.faces}
        for task, ensemble in part.ensembles.items():
            held = [people <= set(m.card["split"]["held_out"]) for m in ensembles[task].models]
            assert len(ensemble.models) == len(ensemble.weights) == sum(held) > 0
        scored += part.faces
    folds = [make_split({f.person for f in faces}, folds=4, fold=n, limit=None)[1]["held_out"]
             for n in set(ours) & set(theirs)]  # fmt: skip
    everyone = {key for fold in folds for key in fold}
    assert sorted(map(str, scored)) == sorted(str(f) for f in faces if f.person.key in everyone)


def test_models_of_other_people_have_no_honest_score(data, faces):
    mixed = {"a": held_out(faces, [0, 1]), "b": held_out(faces, [0, 1], limit=9)}
    with pytest.raises(UserError, match="split") as error:
        honest_parts(data, mixed, CODES)
    assert str(error.value).count("x.pt: fold") == 4
    with pytest.raises(UserError, match="holds other people than the training data"):
        honest_parts(data, {"a": held_out(faces[7:], [0, 1])}, Codes({"a": MaskRecipe.classes}))


def test_errors_in_years_are_described_by_class(faces, ask):
    """Two years off for everyone under 30, none for the others."""
    some = faces[:28]
    answers = ask([face.path for face in some], random_model(AgeRecipe))
    true = np.array([face.age for face in some], float)
    off = np.where(true < 30, 2.0, 0.0)
    years = np.column_stack([true + off, true - 1, true + 1])
    predictions = dataclasses.replace(answers, numbers={"years": years})
    ensembles = {"age": Ensemble((random_model(AgeRecipe),), (1.0,))}
    (line,) = describe_numbers(ensembles, some, predictions)
    young = f"<30 {2.0:.1f}"
    assert line.startswith(f"years: mean absolute error {off.mean():.1f} ({young}, 30-59 0.0")
    assert line.endswith("; 100% within the 80% interval")
    assert describe_numbers(ensembles, some, answers) != [line]
    assert (
        describe_numbers({"any": Ensemble((random_model(MaskRecipe),), (1.0,))}, some, predictions)
        == []
    )
