"""common/inference/report: the page, and the people it groups photos by."""

import dataclasses
import html
import re
from pathlib import Path

import numpy as np
import pytest

import combine
from common.base.errors import UserError
from common.base.stages import Stages
from common.data.layout import Face, Person
from common.faces.cache import Cropper
from common.inference.ensemble import Ensemble
from common.inference.job import Job
from common.inference.options import Options
from common.inference.predictions import Predictions
from common.inference.report import subjects
from common.inference.report.evaluation import Evaluation
from common.inference.report.page import error_crops, report_page, write_report
from common.inference.submissions import print_score
from common.model import checkpoint
from common.model.loaded import LoadedModel
from common.model.weights import create_classifier
from tests.test_figures import Balance

SPLIT = {"folds": 5, "fold": 0, "limit": None, "hash": "0" * 16, "held_out": ["a", "b", "c"]}


@pytest.fixture(scope="module")
def ensembles() -> dict[str, Ensemble]:
    """Three models with cards, which are not run."""
    made = {}
    for recipe in combine.TASKS:
        own = recipe(model="test_efficientnet", size=(32, 48), pretrained=False, crop="center")
        model, _ = create_classifier(own)
        metrics = {"epoch": 1, "macro_f1": 0.5, "accuracy": 0.25, "photos": 21}
        card = checkpoint.make_card(own, model, split=SPLIT, metrics=metrics) | {"sha256": "f00"}
        loaded = LoadedModel(None, own, checkpoint.crop_spec(own), card, Path(f"{own.task[0]}.pt"))
        made[own.task] = Ensemble((loaded,), (1.0,))
    return made


def crowd(photos: tuple[Face, ...], number: int, races: tuple[str, ...]) -> list[Face]:
    """Seven photos each of `number` made-up people of all genders, age groups and races."""
    people = [
        Person(
            f"p{n:03d}",
            ("male", "female")[n % 2],
            (20 + n % 10, 30 + n % 30, 60)[n // 2 % 3],
            races[n // 6 % len(races)],
        )
        for n in range(number)
    ]
    views = [photo for photo in photos if photo.person == photos[0].person]
    return [dataclasses.replace(view, person=p) for p in people for view in views]


def predicted(
    faces: list[Face], wrong: np.ndarray, bad: dict[int, str]
) -> tuple[Predictions, np.ndarray]:
    """Correct predictions, but for each task the next class where `wrong`; and the codes."""
    recipes = [task() for task in combine.TASKS]
    labels = [np.array([recipe.label(face) for face in faces]) for recipe in recipes]
    classes, probabilities = {}, {}
    for recipe, y_true in zip(recipes, labels, strict=True):
        size = len(recipe.classes)
        y_pred = np.where(wrong, (y_true + 1) % size, y_true)
        probabilities[recipe.task] = np.full((len(faces), size), 0.2 / (size - 1))
        probabilities[recipe.task][np.arange(len(faces)), y_pred] = 0.8
        probabilities[recipe.task][list(bad)] = np.nan
        classes[recipe.task] = np.where(np.isin(np.arange(len(faces)), list(bad)), -1, y_pred)
    n = len(faces)
    empty = np.full((n, 4), np.nan)
    predictions = Predictions(
        probabilities=probabilities,
        classes=classes,
        regions=empty,
        boxes=empty,
        detected=[row % 5 > 0 for row in range(n)],
        faces=[1] * n,
        bad=bad,
        photos=np.arange(n),
    )
    return predictions, combine.encode(labels)


@pytest.fixture(scope="module")
def evaluated(ensembles, faces, tmp_path_factory):
    """Make an Evaluation of a crowd, some of whose photos are predicted wrongly."""
    folder = tmp_path_factory.mktemp("report")

    def make(wrong=lambda face: False, number=120, races=("Red", "Blue"), bad=()):
        people = crowd(faces, number, races)
        mistaken = np.array([wrong(face) for face in people])
        predictions, y_true = predicted(people, mistaken, dict.fromkeys(bad, "damaged"))
        flags = Options(report=folder, cache_dir=folder / "cache")
        job = Job(flags, combine.TASKS, combine.CODES, ensembles, Stages())
        job.stages.add({"networks": 130.0})
        paths = [face.path for face in people]
        names = [f"{face.person.key}/{face.path.name}" for face in people]
        return Evaluation(
            job, y_true, predictions, subjects.of_faces(people), names, paths, ["on some"]
        )

    return make


def words(text: str) -> str:
    """The text of a page in one line, without the figures."""
    body = re.sub(r"<style.*?</style>|<svg.*?</svg>|<[^>]*>", " ", text, flags=re.S)
    return re.sub(r"\s+", " ", html.unescape(body))


def old_blue_women(face: Face) -> bool:
    person = face.person
    return person.gender == "female" and person.age == 60 and person.race == "Blue"


def test_a_planted_gap_is_reported_with_the_right_numbers(evaluated):
    text = report_page(evaluated(old_blue_women, number=180), {})
    loud = re.findall(r'<p class="verdict error"><strong>(.*?)</strong>', text)
    assert any(
        html.unescape(line).startswith(
            "18 codes: 0% of female >=60 Blue are correct (n = 105 photos of 15 people), 100 points"
        )
        for line in loud
    )
    assert "everyone: 92%." in loud[0]
    assert "male <30 Red 105 15 100.0% " in words(text)


def test_the_score_equals_the_printed_one_and_bad_photos_count_as_wrong(evaluated, capsys):
    """No gap is reported for a group of few photos, even if a third of all are wrong."""
    report = evaluated(lambda face: face.view == "normal", number=24, races=("Drawn",), bad=(3, 8))
    codes = report.job.codes
    print_score(codes, report.y_true, codes.of(report.predictions))
    printed = capsys.readouterr().out
    f1, accuracy = re.search(r"18 codes macro F1 (\S+) +accuracy (\S+)", printed).groups()
    text = words(report_page(report, {}))
    assert f"18 codes macro F1 {f1} (95%: " in text and f", accuracy {accuracy} (95%: " in text
    assert "points (95%" not in text
    assert "Nothing by race: train.csv has only Drawn." in text
    assert "2 photos without a prediction, counted as wrong." in text
    for task in ("mask", "gender", "age"):
        line = re.search(rf"{task} +macro F1 (\S+) +accuracy (\S+)", printed).groups()
        assert re.search(rf"{task} {line[0]} \S+ {line[1]} \(", text)


@pytest.fixture(scope="module")
def written(evaluated) -> tuple[Evaluation, bytes]:
    """A report in which people of 29 and 30 are predicted wrongly, and its file."""
    report = evaluated(lambda face: face.person.age in (29, 30))
    write_report(report)
    return report, report.job.options.report_file.read_bytes()


def test_every_section_is_there_with_its_numbers(written):
    report, text = written[0], written[1].decode()
    shown = words(text)
    for heading in (
        "Scores",
        "Confusions",
        "Classes",
        "Calibration",
        "Errors by age",
        "Groups of people",
        "Kinds of photos",
        "Most confident errors",
        "Time",
        "Models",
        "Method",
    ):
        assert f"<h2>{heading}</h2>" in text
    wrong = sum(age in (29, 30) for age in report.subjects.years)
    near = sum(age in (28, 29, 30, 31, 58, 59, 60) for age in report.subjects.years)
    share = f"{wrong / near:.1%} ("
    assert re.search(rf"1 to 2 {near} \d+ {re.escape(share)}", shown)
    assert "60 stands for all from 60 on." in shown
    assert re.search(r"29 \d+ \d+ 100\.0% ", shown)
    assert "centre crop 168 120 " in shown and "face detected 672 120 " in shown
    assert "networks 2.2 min" in shown
    assert "macro F1 0.5000, accuracy 0.2500 on 21 photos of the held-out people" in shown
    assert "split.held_out 3 people" in shown and f"recipe.lr {combine.MaskRecipe().lr:g}" in shown
    assert "expected calibration error" in shown
    assert "least probability 0% 50% 60% 70% 80% 90% 95% 99%" in shown
    task = report.tasks[0]
    own = report.predictions.probabilities[task.name][range(len(task.y_pred)), task.y_pred]
    cells = [
        f"{task.correct[own >= p].mean():.1%} (of {np.mean(own >= p):.0%})"
        if (own >= p).any()
        else "–"
        for p in (0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
    ]
    assert f"{task.name} {' '.join(cells)} " in shown


def test_the_file_needs_no_network_and_describes_its_pictures(written):
    report, data = written
    text = data.decode()
    assert report.job.stages.seconds["report"] > 0
    assert len(data) < 5_000_000
    parser = Balance()
    parser.feed(text)
    assert not parser.open
    assert not re.search(r"<script|<link|@import|<iframe", text)
    linked = re.findall(r'(?:src|href)="([^"]{0,40})', text) + re.findall(r"url\(([^)]*)", text)
    assert linked and all(link.startswith(("data:image/jpeg", "#")) for link in linked)
    spaces = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert set(re.findall(r"https?:[^\"'<> )]*", text)) <= spaces
    assert 'name="viewport"' in text and "@media print" in text
    assert not re.search(r"<svg(?![^>]*aria-label=\"[^\"]+\")|<img(?![^>]*alt=\"[^\"]+\")", text)


def test_error_crops_are_the_models_input_and_few_of_a_person(evaluated):
    report = evaluated(lambda face: face.view in ("mask1", "mask2", "normal"), number=30)
    sheet = list(error_crops(report, report.tasks[0]))
    assert len(sheet) == 24
    people = [re.search(r"(p\d+)/", line).group(1) for _, line in sheet]
    assert max(map(people.count, people)) == 2
    spec = report.job.ensembles["mask"].models[0].spec
    cropper = Cropper([spec], report.job.options.cache_dir)
    for image, line in sheet:
        place = report.names.index(line.rpartition(" ")[2])
        assert np.array_equal(image, cropper(report.paths[place]).images[0])
        assert image.shape == (32, 48, 3)
        assert re.match(r"true (wear|not_wear), predicted (incorrect|wear) \(80%\): ", line)


def test_a_report_without_errors_or_without_predictions_is_whole(evaluated):
    assert words(report_page(evaluated(number=6), {"mask": []})).count("No errors.") == 1
    assert "7 photos without a prediction" in words(
        report_page(evaluated(number=1, bad=range(7)), {})
    )


def test_columns_that_a_table_lacks_are_left_out_and_named(evaluated, tmp_path):
    table = tmp_path / "labels.csv"
    report = evaluated(number=12)
    table.write_text("ImageID,ans\n" + "".join(f"{name},0\n" for name in report.names))
    people = subjects.of_labels(table, report.names)
    text = words(report_page(dataclasses.replace(report, subjects=people), {}))
    assert "Nothing by age: labels.csv has no column age with years." in text
    assert "Nothing by race: labels.csv has no column race." in text
    assert "No column person or id in labels.csv: each photo counts as one of another" in text
    assert "Report on 84 photos " in text and "84 photos of" not in text


def test_the_table_of_labels_may_name_people(tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text(
        "ImageID,ans,id,person,race,age\nb,1,1,x,Red, 30\na,0,2,x,,\nc,2,3,,Blue,>=60\n"
    )
    result = subjects.of_labels(table, ["a", "b", "c"])
    assert result.people.tolist() == ["x", "x", "c"] and result.same_person
    assert np.isnan(result.years[[0, 2]]).all() and result.years[1] == 30
    assert result.races.tolist() == ["", "Red", "Blue"]
    table.write_text("ImageID,ans,id\na,0,7\nb,1,7\n")
    assert subjects.of_labels(table, ["a", "b"]).people.tolist() == ["7", "7"]
    table.write_text("ImageID,ans,age\na,0,30\nb,1,old\nc,1,121\n")
    with pytest.raises(UserError, match="2 ages can't be read") as error:
        subjects.of_labels(table, ["a", "b", "c"])
    assert "b: age 'old'" in str(error.value) and "c: age '121'" in str(error.value)


def test_rows_of_one_human_are_one_person():
    rows = {"1": "x", "2": "x", "3": ""}
    people = [Person(key, "male", 20, columns={"person": human}) for key, human in rows.items()]
    result = subjects.of_faces([Face(Path(p.key), "normal", p) for p in people])
    assert result.people.tolist() == ["x", "x", "3"]
    group = dataclasses.replace(people[0], age=30, exact=False)
    assert np.isnan(subjects.of_faces([Face(Path("a"), "normal", group)]).years[0])
