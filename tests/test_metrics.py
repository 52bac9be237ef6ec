"""Scores are scikit-learn's, over every class there is."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from age.recipe import AgeRecipe
from common.data.layout import Face, Person
from common.model.metrics import number_errors, number_words, score

PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60)


@given(PAIRS)
def test_macro_f1_counts_every_class(pairs):
    true, predicted = zip(*pairs, strict=True)
    scores = score(true, predicted, 5)
    expected = f1_score(true, predicted, labels=range(5), average="macro", zero_division=0)
    assert scores.macro_f1 == pytest.approx(expected)
    assert scores.accuracy == pytest.approx(np.mean(np.equal(true, predicted)))
    assert scores.rows == len(pairs)


def test_an_absent_class_counts_as_zero():
    scores = score([0, 0, 1, 1], [0, 0, 1, 1], 4)
    assert scores.macro_f1 == 0.5
    assert scores.accuracy == 1.0


def test_table_has_a_line_a_class():
    lines = score([0, 0, 1], [0, 1, 1], 3).table(["low", "middle", "high"]).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["low", "2", "0.500", "1.000", "0.667"],
        ["middle", "1", "1.000", "0.500", "0.667"],
        ["high", "0", "0.000", "0.000", "0.000"],
    ]


def test_errors_of_numbers_are_those_of_faces_with_a_label_and_a_prediction():
    people = [Person(f"p{age}", "male", age, exact=age != 40) for age in (20, 28, 40, 50, 70)]
    faces = [Face(Path("x"), "normal", person) for person in people]
    numbers = np.array([[22, 18, 26], [27, 20, 25], [1, 1, 1], [50, 40, 60], [np.nan] * 3])
    errors = number_errors(AgeRecipe(), faces, numbers)
    assert errors["error"] == pytest.approx(1) and errors["within"] == pytest.approx(2 / 3)
    assert errors["by_class"] == {"<30": 1.5, "30-59": 0.0}
    words = "mean absolute error 1.0 (<30 1.5, 30-59 0.0); 67% within the 80% interval"
    assert number_words(errors) == words
    assert number_errors(AgeRecipe(), faces[2:3], numbers[2:3]) is None
