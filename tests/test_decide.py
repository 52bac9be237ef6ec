"""Decisions: offsets are tuned on some people and scored on others."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

import combine
from age.recipe import AgeRecipe
from common.data.split import make_split
from common.inference.codes import Codes
from common.inference.decide import default_decision, offsets_of, prior_offsets
from common.inference.ensemble import Ensemble
from common.inference.held_out import Decider, HeldOutPhotos, fifths
from common.inference.offsets import macro_f1, nested, tune_offsets
from common.inference.predictions import Probabilities
from common.inference.votes import Votes, chosen_weights
from common.model import checkpoint
from common.model.loaded import LoadedModel
from common.model.weights import create_classifier
from gender.recipe import GenderRecipe
from mask.recipe import MaskRecipe

SIZES = {"mask": 3, "gender": 2, "age": 3}
CODES = st.lists(st.tuples(st.integers(0, 17), st.integers(0, 17)), min_size=1, max_size=60)
OFFSET = st.floats(-3, 3)


def simulated(persons: int = 60, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Seven photos a person: each task's probabilities, true codes, and the persons' fifths.

    Rare classes are predicted badly: their probability is seldom the highest.
    """
    rng = np.random.default_rng(seed)
    rows = 7 * persons
    shares, classes = [], []
    for size in SIZES.values():
        prior = 0.25 ** np.arange(size)
        true = rng.choice(size, rows, p=prior / prior.sum())
        logits = np.log(prior) + np.eye(size)[true] * 1.5 + rng.normal(size=(rows, size))
        shares.append(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))
        classes.append(true)
    return shares, combine.encode(classes), np.repeat(np.arange(persons) % 5, 7)


STARTS = [[np.zeros(size) for size in SIZES.values()]]


def tuned(shares: list[np.ndarray], true: np.ndarray) -> list[np.ndarray]:
    return tune_offsets(shares, true, STARTS, combine.CODES)


def codes(shares: list[np.ndarray], offsets: list[np.ndarray]) -> np.ndarray:
    chosen = ((np.log(s) + o).argmax(axis=1) for s, o in zip(shares, offsets, strict=True))
    return combine.encode(list(chosen))


@given(CODES)
def test_the_score_to_tune_is_scikit_learns(pairs):
    true, predicted = np.array(pairs).T
    expected = f1_score(true, predicted, labels=range(18), average="macro", zero_division=0)
    assert macro_f1(true, predicted, 18) == pytest.approx(expected)


def test_tuned_offsets_score_better_on_other_people_too():
    shares, true, parts = simulated(persons=300)
    start = macro_f1(true, codes(shares, STARTS[0]), 18)
    assert macro_f1(true, codes(shares, tuned(shares, true)), 18) > start + 0.03
    offsets = nested(shares, true, parts, STARTS, combine.CODES)
    assert macro_f1(true, codes(shares, offsets), 18) > start + 0.03


def test_nobodys_own_labels_and_photos_choose_their_offsets():
    shares, true, parts = simulated()
    mine = parts == 3
    before = nested(shares, true, parts, STARTS, combine.CODES)
    other, other_true, _ = simulated(seed=1)
    changed = [np.where(mine[:, None], b, a) for a, b in zip(shares, other, strict=True)]
    after = nested(changed, np.where(mine, other_true, true), parts, STARTS, combine.CODES)
    for a, b in zip(before, after, strict=True):
        assert np.array_equal(a[mine], b[mine])
    assert any((a[~mine] != b[~mine]).any() for a, b in zip(before, after, strict=True))


def loaded(prior: list[float], offsets: dict | None = None, name: str = "a.pt") -> LoadedModel:
    """A model that is never run, with a card of decisions."""
    decision = {"temperature": 1.0, "prior": prior, "ece": None, "offsets": offsets}
    return LoadedModel(None, None, None, {"sha256": name, "decision": decision}, Path(name))


SHARES = st.lists(st.lists(st.integers(1, 50), min_size=3, max_size=3), min_size=1, max_size=5)
VOTES = st.sampled_from(["soft", "hard"])


@given(SHARES, SHARES, VOTES, st.lists(OFFSET, min_size=3, max_size=3), OFFSET)
def test_only_differences_between_offsets_count(one, other, vote, offsets, shift):
    rows = min(len(one), len(other))
    shares = np.array([one[:rows], other[:rows]], dtype=float)
    shares /= shares.sum(axis=2, keepdims=True)
    ensemble = Ensemble((None, None), (1.0, 2.0), vote)
    values = np.round(offsets, 3)
    mean, chosen = ensemble.mean(shares), ensemble.decide(shares, values)
    scores = np.sort(mean * np.exp(values), axis=1)
    clear = scores[:, -1] > scores[:, -2] * (1 + 1e-6)  # no tie that rounding may break otherwise
    shifted = ensemble.decide(shares, values + round(shift, 3))
    if vote == "soft":
        assert np.array_equal(chosen[clear], shifted[clear])
        assert np.array_equal(chosen[clear], (np.log(mean) + values).argmax(axis=1)[clear])
    assert np.array_equal(ensemble.decide(shares), ensemble.decide(shares, np.zeros(3)))


def test_in_a_hard_vote_each_model_shifts_its_own_probabilities():
    shares = np.array([[[0.6, 0.4]], [[0.6, 0.4]], [[0.95, 0.05]]])
    ensemble = Ensemble((None,) * 3, (1.0,) * 3, "hard")
    offsets = np.log([1.0, 2.0])
    assert ensemble.decide(shares, offsets).tolist() == [1]
    soft = Ensemble((None,) * 3, (1.0,) * 3, "soft")
    assert soft.decide(shares, offsets).tolist() == [0]


@given(SHARES)
def test_a_flat_prior_decides_as_argmax(rows):
    shares = np.array([rows], dtype=float)
    ensemble = Ensemble((loaded([1 / 3] * 3),), (1.0,))
    offsets = prior_offsets({"any": ensemble})["any"]
    assert np.array_equal(ensemble.decide(shares, offsets), ensemble.decide(shares))


def test_a_prior_is_divided_out_and_is_the_models_mean():
    ensemble = Ensemble((loaded([0.9, 0.1]), loaded([0.7, 0.3])), (1.0, 1.0))
    offsets = prior_offsets({"any": ensemble})["any"]
    assert np.exp(-offsets) == pytest.approx([0.8, 0.2])
    shares = np.array([[[0.79, 0.21]], [[0.79, 0.21]]])
    assert ensemble.decide(shares, offsets).tolist() == [1]


def stored(task: str, identity: str, models: dict, values: tuple = (0.0, 1.0)) -> LoadedModel:
    told = {"models": models, "persons": 5}
    offsets = {"values": list(values), "identity": identity, "tuned_on": told}
    return loaded([0.5, 0.5], offsets, f"{task}.pt")


def test_offsets_decide_by_default_only_where_all_were_tuned_together(capsys):
    models = {"a": ["x"], "b": ["y"]}

    def pair(second: LoadedModel) -> dict[str, Ensemble]:
        return {
            "a": Ensemble((stored("a", "x", models),), (1.0,)),
            "b": Ensemble((second,), (1.0,)),
        }

    together = pair(stored("b", "y", models, (0.0, -0.5)))
    assert default_decision(together) == "offsets"
    assert offsets_of("offsets", together)["b"].tolist() == [0, -0.5]
    assert not capsys.readouterr().err
    assert default_decision(pair(loaded([0.5, 0.5]))) == "argmax"
    with pytest.raises(combine.UserError, match=r"none in b\.pt; combine\.py --held-out"):
        offsets_of("offsets", pair(loaded([0.5, 0.5], name="b.pt")))
    apart = pair(stored("b", "z", {"a": ["w"], "b": ["z"]}))
    assert default_decision(apart) == "argmax"
    offsets_of("offsets", apart)
    assert "with other models than these: a.pt, b.pt" in capsys.readouterr().err


def undecided(by_model: dict[str, np.ndarray]) -> Probabilities:
    """Probabilities for photos in which no model looks for a face."""
    n = next(iter(by_model.values())).shape[1]
    return Probabilities(
        by_model=by_model,
        regions=np.zeros((n, 4)),
        boxes=np.zeros((n, 4)),
        detected=[None] * n,
        faces=[None] * n,
        bad={},
        photos=np.arange(n),
    )


def test_held_out_offsets_are_never_the_stored_ones(faces):
    """Labels of a fifth of the people don't change the decisions for that fifth."""
    shares, true, _ = simulated(persons=12)
    models = dict.fromkeys(SIZES, ["x"])
    ensembles = {}
    for task, size in SIZES.items():
        told = {"values": [99.0] + [0.0] * (size - 1), "identity": "x", "tuned_on": models}
        ensembles[task] = Ensemble((loaded([1 / size] * size, told),), (1.0,))
    output = undecided({t: s[None] for t, s in zip(SIZES, shares, strict=True)})

    def chosen(true: np.ndarray) -> np.ndarray:
        parts = [HeldOutPhotos(tuple(faces), ensembles)]
        decider = Decider(parts, [output], ensembles, true, combine.CODES)
        return combine.CODES.of(decider.decided("offsets"))

    before = chosen(true)
    assert before.max() > 0  # 99 for the first class would leave nothing else
    mine = fifths([HeldOutPhotos(tuple(faces), {})]) == 1
    assert 0 < mine.sum() < len(mine) / 2
    assert np.array_equal(chosen(np.where(mine, 17 - true, true))[mine], before[mine])


@pytest.fixture
def home(data, faces, tmp_path, monkeypatch) -> Path:
    """Three untrained models in a folder, with random probabilities that lean to the true class.

    Gender's are so high for the first class that the other is never the most likely.
    """
    split = make_split({face.person for face in faces}, folds=2, fold=0, limit=None)[1]
    for recipe in (MaskRecipe, GenderRecipe, AgeRecipe):
        own = recipe(model="test_efficientnet", size=(48, 48), pretrained=False, crop="center")
        model, _ = create_classifier(own)
        prior = [1 / len(own.classes)] * len(own.classes)
        decision = {"temperature": 1.5, "prior": prior, "ece": None, "offsets": None}
        card = checkpoint.make_card(own, model, split=split, metrics={}, decision=decision)
        file = tmp_path / f"{own.task[0]}.pt"
        checkpoint.save(file, card, model.backbone.state_dict(), {"epoch": 1})
    by_path = {face.path: face for face in faces}

    def said(task: type, path: Path) -> np.ndarray:
        rng = np.random.default_rng(list(f"{task.task} {path.name} {path.parent.name}".encode()))
        true = rng.integers(len(task.classes))
        if path in by_path:
            true = task().label(by_path[path])
        logits = rng.normal(size=len(task.classes)) / (2 if task is GenderRecipe else 1)
        logits += 5 * (np.arange(len(task.classes)) == true)
        logits[0] += 8 * (task is GenderRecipe)
        return np.exp(logits) / np.exp(logits).sum()

    def drawn(paths: list[Path], ensembles: dict[str, Ensemble], *_: object) -> Probabilities:
        return undecided(
            {
                t.task: np.array([[said(t, p) for p in paths]] * len(ensembles[t.task].models))
                for t in combine.TASKS
            }
        )

    monkeypatch.setattr("common.inference.job.predict", drawn)
    return tmp_path


def ask(home: Path, data: Path, capsys: pytest.CaptureFixture[str], line: str) -> str:
    models = f"--mask {home / 'm.pt'} --gender {home / 'g.pt'} --age {home / 'a.pt'}"
    where = f"--data {data} --device cpu --workers 0 --cache-dir {home / 'cache'}"
    status = combine.main(f"{models} {line} {where if '--input' not in line else ''}".split())
    output, error = capsys.readouterr()
    assert status == 0, error
    return output


def test_offsets_are_tuned_stored_and_used(home, data, tmp_path, capsys):
    before = {name: checkpoint.read(home / name) for name in ("m.pt", "g.pt", "a.pt")}
    plain = ask(home, data, capsys, f"--output {tmp_path / 'plain.csv'} --probs {tmp_path / 'p1'}")
    assert "decision: argmax" in plain
    printed = ask(home, data, capsys, "--held-out --tune-offsets")
    scores = re.search(r"argmax (\S+), offsets (\S+)\n", printed).groups()
    assert f"18 codes macro F1 {scores[1]}" in printed
    assert "decision: offsets, nested" in printed and "offsets tuned on all 6 people" in printed
    for decision, score in zip(("argmax", "offsets"), scores, strict=True):
        again = ask(home, data, capsys, f"--held-out --decide {decision}")
        assert f"18 codes macro F1 {score}" in again
    identities = {n[0]: content["card"]["sha256"] for n, content in before.items()}
    for name, old in before.items():
        new = checkpoint.read(home / name)
        offsets = new["card"]["decision"].pop("offsets")
        assert old["card"]["decision"].pop("offsets") is None
        told = offsets["tuned_on"]
        assert {task[0]: shas for task, shas in told["models"].items()} == {
            task: [sha] for task, sha in identities.items()
        }
        assert (told["persons"], told["photos"]) == (6, 42)
        assert told["macro_f1"]["offsets"] == pytest.approx(float(scores[1]), abs=5e-5)
        assert told["split"] == old["card"]["split"]["hash"]
        assert new["training"] == {"epoch": 1}
        del new["card"]["sha256"], old["card"]["sha256"]
        assert new["card"] == old["card"]
        assert all(torch.equal(t, new["state_dict"][k]) for k, t in old["state_dict"].items())
    by_default = ask(
        home, data, capsys, f"--output {tmp_path / 'offsets.csv'} --probs {tmp_path / 'p2'}"
    )
    assert "decision: offsets tuned to macro F1 on 6 held-out people" in by_default
    answers = [pd.read_csv(tmp_path / name)["ans"] for name in ("plain.csv", "offsets.csv")]
    assert not (answers[0] // 3 % 2).any() and (answers[1] // 3 % 2).any()
    assert (tmp_path / "p1").read_text() == (tmp_path / "p2").read_text()
    photo = data / "eval" / "images" / pd.read_csv(tmp_path / "offsets.csv")["ImageID"][
        int((answers[1] // 3 % 2).argmax())
    ]  # fmt: skip
    one = ask(home, data, capsys, f"--input {photo} --cache-dir {home / 'cache'} --workers 0")
    assert re.search(r"gender +female +\d+\.\d%", one)
    assert "male is more likely; offsets prefer this class" in one


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--tune-offsets", "--tune-offsets goes with --held-out"),
        ("--tune-votes", "--tune-votes goes with --held-out"),
        ("--held-out --tune-votes --vote hard", "--tune-votes and --vote hard"),
        ("--held-out --tune-votes --age-weights 2", "--tune-votes and --age-weights"),
        ("--held-out --tune-votes", "each task has one model"),
        ("--held-out --tune-offsets --decide argmax", "give the one or the other"),
    ],
)
def test_flags_that_do_not_go_together(line, words, capsys):
    assert combine.main(f"--mask m.pt --gender g.pt --age a.pt {line}".split()) == 2
    assert words in capsys.readouterr().err


RATIO = st.integers(2, 5).flatmap(
    lambda models: st.lists(st.floats(0.1, 3), min_size=models, max_size=models)
)


@given(strengths=RATIO, seed=st.integers(0, 1000))
def test_chosen_votes_are_no_worse_than_the_best_model(strengths, seed):
    rng = np.random.default_rng(seed)
    true = rng.integers(3, size=200)
    logits = [s * np.eye(3)[true] + rng.normal(size=(200, 3)) for s in strengths]
    by_model = np.stack([np.exp(v) / np.exp(v).sum(axis=1, keepdims=True) for v in logits])
    weights = chosen_weights(by_model, true)

    def log_loss(probabilities: np.ndarray) -> float:
        return -np.log(probabilities[np.arange(200), true]).mean()

    chosen = log_loss(np.average(by_model, axis=0, weights=weights))
    assert chosen <= min(map(log_loss, by_model)) + 1e-9
    assert np.gcd.reduce(weights) == 1 and min(weights) >= 0
    twice = chosen_weights(np.concatenate([by_model, by_model]), true)
    assert log_loss(np.average([*by_model, *by_model], axis=0, weights=twice)) <= chosen + 1e-9


def test_votes_are_chosen_for_people_by_others():
    """A model that is right for one fifth of the people only isn't chosen for them."""
    true = np.tile([0, 1], 50)
    parts = np.repeat(np.arange(5), 20)
    good, bad = np.eye(2)[true] * 0.6 + 0.2, np.eye(2)[1 - true] * 0.98 + 0.01
    steady, lucky = good, np.where((parts == 0)[:, None], np.eye(2)[true] * 0.98 + 0.01, bad)
    votes = Votes({"a": np.stack([steady, lucky])}, {"a": true}, parts, Codes({"a": ("x", "y")}))
    assert votes.weights(parts == 0) == {"a": [0, 1]}
    assert votes.weights() == {"a": [1, 0]}
    equal, chosen = votes.merits()
    assert chosen == 1 and equal < 0.5


def test_printed_votes_can_be_pasted(home, data, capsys):
    content = checkpoint.read(home / "a.pt")
    weights = {name: tensor * 1.01 for name, tensor in content["state_dict"].items()}
    checkpoint.save(home / "b.pt", content["card"], weights)
    printed = ask(home, data, capsys, f"--held-out --tune-votes --age {home}/a.pt {home}/b.pt")
    (flags,) = re.findall(r"chosen on all 6 people: (.*)\n", printed)
    scores = re.search(r"equal votes (\S+), chosen (\S+) \(", printed).groups()
    assert f"--age {home / 'a.pt'}" in flags  # the other predicts the same
    assert f"18 codes macro F1 {scores[0]}" in printed
    assert combine.main([*flags.split(), "--held-out", "--data", str(data), "--workers", "0"]) == 0
