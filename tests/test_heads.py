"""Auxiliary heads teach the backbone and are no part of the prediction; years where there are years."""

import dataclasses
import re
from pathlib import Path
from statistics import NormalDist

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from age.recipe import AgeRecipe
from common.base.errors import UserError
from common.data.layout import Face, Person, read_faces
from common.model import checkpoint
from common.model.export import export
from common.model.exported import load_exported
from common.model.facts import facts
from common.model.heads import AuxiliaryLoss, Head, MaskedCrossEntropy, make_heads
from common.model.loaded import load
from common.model.network import create_backbone
from common.model.recipe import Recipe
from gender.recipe import GenderRecipe
from mask.recipe import MaskRecipe
from tests.tiny import train_tiny


def heads(recipe: Recipe, faces: tuple[Face, ...], *names: str) -> list[Head]:
    return make_heads(dataclasses.replace(recipe, aux=names), faces)


def test_heads_are_years_attributes_and_columns(faces: tuple[Face, ...]) -> None:
    years, mask, gender, path = heads(AgeRecipe(), faces, "years", "mask", "gender", "path")
    assert [head.outputs for head in (years, mask, gender, path)] == [101, 3, 2, 12]
    for face in faces:
        assert years.label(face) == face.age
        expected = ["incorrect_mask", "mask", "normal"].index(face.view.rstrip("12345"))
        assert mask.label(face) == expected
        assert gender.label(face) == (face.gender == "male")
    stranger = Face(Path("x"), "normal", Person("p", "male", 30))
    assert path.label(stranger) == -1  # a mixed person's row needn't have the column


def test_years_end_where_the_table_can_only_mean_or_older(faces: tuple[Face, ...]) -> None:
    ages = (18, 41, 60)
    clipped = [Face(Path("x"), "normal", Person(str(age), "male", age)) for age in ages]
    (head,) = heads(GenderRecipe(), tuple(clipped), "years")
    assert head.outputs == 43
    assert [head.label(face) for face in clipped] == [0, 23, 42]
    assert head.criterion.targets(torch.tensor([42]))[0, 42] == 1  # no half of them below 60


@pytest.mark.parametrize(
    ("recipe", "name", "words"),
    [
        (MaskRecipe(), "mask", "--aux mask: the model predicts it anyway"),
        (MaskRecipe(), "hat", "--aux hat: 0 different values"),
        (MaskRecipe(), "race", "--aux race: 1 different values, 2 to 50 can be learned"),
    ],
)
def test_heads_that_cannot_be_made_are_refused(
    faces: tuple[Face, ...], recipe: Recipe, name: str, words: str
) -> None:
    same = [
        dataclasses.replace(
            f, person=dataclasses.replace(f.person, columns={**f.person.columns, "race": "any"})
        )
        for f in faces
    ]
    with pytest.raises(UserError, match=words):
        heads(recipe, tuple(same), name)


def test_the_loss_is_the_own_one_and_the_heads_weighed() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(8, 5, generator=generator)
    own, other = torch.randint(3, (8,)), torch.tensor([0, 1, 1, -1, 0, -1, 1, 0])
    head = Head("gender", 2, lambda face: 0, MaskedCrossEntropy())
    loss = AuxiliaryLoss(torch.nn.CrossEntropyLoss(), 3, [head], weight=0.25)
    known = other >= 0
    expected = F.cross_entropy(logits[:, :3], own)
    expected = expected + 0.25 * F.cross_entropy(logits[known, 3:], other[known])
    assert torch.allclose(loss(logits, torch.stack([own, other], dim=1)), expected)
    unknown = torch.full_like(other, -1)
    alone = loss(logits, torch.stack([own, unknown], dim=1))
    assert torch.allclose(alone, F.cross_entropy(logits[:, :3], own))


@pytest.mark.parametrize("model", ["test_efficientnet", "test_convnext", "test_vit"])
def test_the_checkpoint_predicts_its_task_alone(data: Path, tmp_path: Path, model: str) -> None:
    line = f"--model {model} --size 160 --aux years,mask --epochs 1 --batch-size 32"
    status, printed = train_tiny(GenderRecipe, data, tmp_path, line)
    assert status == 0
    assert re.search(r"^loss: .* \+ years", printed, re.MULTILINE)
    loaded = load(tmp_path / "g.pt", GenderRecipe)
    assert loaded.recipe.aux == ("years", "mask")
    names = create_backbone(loaded.recipe).state_dict()
    shapes = {k: v.shape for k, v in loaded.model.backbone.state_dict().items()}
    assert shapes == {k: v.shape for k, v in names.items()}
    (last,) = (tmp_path / "runs" / "gender").glob("*/last.pt")
    whole = checkpoint.read(last)["state_dict"]
    for name, tensor in loaded.model.backbone.state_dict().items():
        assert torch.equal(tensor, whole[name][: len(tensor)] if tensor.ndim else whole[name])


def test_years_learned_beside_groups_stay_in_the_checkpoint(data: Path, tmp_path: Path) -> None:
    """And in its export; the other heads go, and the groups are those of the task's own outputs."""
    line = "--loss focal --aux mask years gender --bins 10-90 --epochs 1"
    status, printed = train_tiny(AgeRecipe, data, tmp_path, line)
    assert status == 0
    error = checkpoint.read(tmp_path / "a.pt")["card"]["metrics"]["number"]
    assert f"years: mean absolute error {error['error']:.1f} (<30 " in printed
    assert "years" in dict(facts(checkpoint.read(tmp_path / "a.pt")["card"]))
    (last,) = (tmp_path / "runs" / "age").glob("*/last.pt")
    whole = checkpoint.read(last)["training"]["ema"]["backbone.classifier.bias"]
    models = [load(tmp_path / "a.pt", AgeRecipe)]
    kept = models[0].model.backbone.classifier.bias
    assert torch.equal(kept, torch.cat([whole[:3], whole[6:87]])) and len(whole) == 89
    export(tmp_path / "a.pt", tmp_path / "a.onnx")
    models.append(load_exported(tmp_path / "a.onnx", AgeRecipe))
    images = torch.randint(256, (4, 3, 48, 48), dtype=torch.uint8)
    for model in models:
        logits, temperature = model.logits(images), model.decision["temperature"]
        groups = (logits[:, :3] / temperature).softmax(dim=1)
        torch.testing.assert_close(model.calibrated(logits), groups)
        expected = logits[:, 3:].softmax(dim=1) @ torch.arange(10.0, 91)
        torch.testing.assert_close(model.number(logits)[:, 0], expected)


def person(age: int, *, exact: bool = True) -> Person:
    return Person(f"p{age}", "male", age, exact=exact)


@given(st.lists(st.integers(0, 120), min_size=1))
def test_years_end_at_60_where_the_oldest_are_60(ages: list[int]) -> None:
    fitted = AgeRecipe(loss="dldl").fitted([person(age) for age in ages])
    first, last = (min(ages), 60) if max(ages) == 60 else (0, 100)
    assert fitted.years == (first, last)
    assert fitted.outputs == last - first + 1
    assert fitted.fitted([person(5)]) == fitted  # a resumed run's are settled


def test_a_clipped_end_means_that_age_or_older() -> None:
    """A Gaussian around "60" would put half of these people below 60, though none of them is."""
    recipe = AgeRecipe(loss="dldl", bins="18-60")
    faces = [Face(Path("x"), "normal", person(age)) for age in (17, 18, 58, 60, 75)]
    targets = torch.tensor([recipe.target(face) for face in faces])
    assert targets.tolist() == [0, 0, 40, 42, 42]
    shares = recipe.criterion([1, 1, 1]).fine.targets(targets)
    groups = recipe.probabilities(shares.clamp_min(1e-30).log())
    assert groups[:2, 0].tolist() == pytest.approx([1, 1])
    assert groups[3:, 2].tolist() == pytest.approx([1, 1])
    assert groups[2, 2].item() == pytest.approx(NormalDist().cdf(-1.5 / 3), abs=1e-5)
    assert recipe.target_class(targets).tolist() == [0, 0, 1, 2, 2]


def grouped(data: Path, folder: Path) -> Path:
    """`data` again, with age groups in the place of years in its table."""
    (folder / "train").mkdir(parents=True)
    (folder / "train" / "images").symlink_to(data / "train" / "images")
    lines = [",".join(("path", "gender", "age"))]
    people = {face.person for face in read_faces(data)}
    names = ("<30", "30-59", ">=60")
    lines += [f"{p.key},{p.gender},{names[(p.age >= 30) + (p.age >= 60)]}" for p in people]
    (folder / "train" / "train.csv").write_text("\n".join(lines))
    return folder


def test_a_table_of_groups_is_learned_as_groups(data: Path, tmp_path: Path) -> None:
    table = grouped(data, tmp_path / "grouped")
    labels = {(f.person.key, f.view): AgeRecipe().label(f) for f in read_faces(table)}
    assert labels == {(f.person.key, f.view): AgeRecipe().label(f) for f in read_faces(data)}
    status, printed = train_tiny(AgeRecipe, table, tmp_path, "--epochs 1")
    assert status == 0 and "training on groups, with --loss cross_entropy" in printed
    recipe = load(tmp_path / "a.pt", AgeRecipe).recipe
    assert (recipe.loss, recipe.outputs) == ("cross_entropy", 3)
    status, printed = train_tiny(GenderRecipe, table, tmp_path, "--epochs 1 --aux years")
    assert status == 0 and "+ years" in printed
    (head,) = make_heads(GenderRecipe(aux=("years",)), read_faces(table))
    assert isinstance(head.criterion, MaskedCrossEntropy) and head.outputs == 3


@pytest.mark.parametrize("line", ["--drop-ages 57-59", "--old-from 58"])
def test_years_are_not_asked_of_a_table_of_groups(data: Path, tmp_path: Path, line: str) -> None:
    with pytest.raises(UserError, match="has an age group for .*, not years"):
        train_tiny(AgeRecipe, grouped(data, tmp_path / "grouped"), tmp_path, line)
