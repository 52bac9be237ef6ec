"""--fold all: each photo is predicted once, by the model that held its person out."""

import signal
from typing import Any

import pandas as pd
import pytest

from age.recipe import AgeRecipe
from common.base.errors import UserError
from common.data.layout import read_faces
from common.model import checkpoint
from common.model.weights import create_classifier
from common.training.command import parse
from gender.recipe import GenderRecipe
from mask.recipe import MaskRecipe
from tests.tiny import interrupted, settings, train_tiny


def test_every_fold_is_trained_anew_and_scored_out_of_fold(data, tmp_path):
    status, printed = train_tiny(GenderRecipe, data, tmp_path, "--fold all --epochs 1")
    assert status == 0
    cards = [checkpoint.read(tmp_path / f"g.fold{i}.pt")["card"] for i in range(3)]
    held = [set(card["split"]["held_out"]) for card in cards]
    everyone = {face.person.key for face in read_faces(data)}
    assert set.union(*held) == everyone and sum(map(len, held)) == len(everyone)
    assert len({card["split"]["hash"] for card in cards}) == 1
    table = pd.read_csv(tmp_path / "g.oof.csv", dtype={"person": str})
    assert len(table) == 84 and not table.duplicated(["person", "view"]).any()
    for fold, part in table.groupby("fold"):
        assert set(part["person"]) == held[fold]
        right = part[["male", "female"]].idxmax(axis=1) == part["true"]
        assert cards[fold]["metrics"]["accuracy"] == pytest.approx(right.mean())
    right = table[["male", "female"]].idxmax(axis=1) == table["true"]
    assert f"accuracy {right.mean():.4f}, on 84 photos of 12 people, each" in printed
    assert sorted(p.name for p in tmp_path.glob("*.pt")) == [f"g.fold{i}.pt" for i in range(3)]
    rows = pd.read_csv(tmp_path / "runs" / "experiments.csv")
    assert rows["fold"].astype(str).tolist() == ["0", "1", "2", "all"]


def test_a_fold_alone_is_the_same_as_among_all(data, tmp_path):
    """Nothing goes from one fold's training to the next."""
    train_tiny(AgeRecipe, data, tmp_path, "--fold all --epochs 1")
    train_tiny(AgeRecipe, data, tmp_path, "--fold 2 --epochs 1")
    one, among = (checkpoint.read(tmp_path / n)["card"]["metrics"] for n in ("a.pt", "a.fold2.pt"))
    assert one == among


def test_an_interrupted_fold_and_those_after_it_are_resumed(data, tmp_path):
    """Stopped in the second fold: the first isn't trained again, the third still is."""
    status, printed = train_tiny(
        interrupted(2, signal.SIGINT, only=1), data, tmp_path, "--fold all --epochs 1"
    )
    assert status == 130
    assert (tmp_path / "m.fold0.pt").is_file() and not (tmp_path / "m.fold2.pt").is_file()
    status, printed = train_tiny(MaskRecipe, data, tmp_path, "--resume")
    assert status == 0
    assert printed.count("nothing left to train") == 1
    assert printed.count("resumed: ") == 2
    whole = tmp_path / "whole"
    whole.mkdir()
    train_tiny(MaskRecipe, data, whole, "--fold all --epochs 1")
    assert (whole / "m.oof.csv").read_text() == (tmp_path / "m.oof.csv").read_text()


def test_fold_is_a_number_or_all(data, tmp_path):
    _, run = settings(MaskRecipe, data, tmp_path, "--fold all --folds 4")
    names = [file.name for file in run.fold_files(MaskRecipe).values()]
    assert names == [f"m.fold{number}.pt" for number in range(4)]
    with pytest.raises(UserError, match="0 to 3, or all"):
        parse(MaskRecipe, ["--folds", "4", "--fold", "4"])


def test_a_network_is_built_once_a_fold(data, tmp_path, monkeypatch):
    built = []

    def noted(*given: Any, **named: Any) -> Any:
        built.append(given)
        return create_classifier(*given, **named)

    monkeypatch.setattr("common.training.prepare.create_classifier", noted)
    train_tiny(MaskRecipe, data, tmp_path, "--epochs 1")
    assert len(built) == 1
    train_tiny(MaskRecipe, data, tmp_path, "--epochs 1 --fold all")
    assert len(built) == 1 + 3
