"""Predictions for labelled photos, by task and by group of people."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.inference.job import Job
from common.inference.predictions import Predictions
from common.inference.report import statistics
from common.inference.report.statistics import Proportion, ScoreIntervals
from common.inference.report.subjects import Subjects


@dataclasses.dataclass(frozen=True)
class TaskPredictions:
    """Labels and predictions of one task, or of the codes: (photos,) class indices, -1 for none."""

    name: str
    classes: Sequence[str]
    y_true: np.ndarray
    y_pred: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        return self.y_true == self.y_pred


class Grouping(NamedTuple):
    """Photos by group: (photos,) names, "" where not labelled, and all names in order."""

    title: str
    groups: np.ndarray
    names: Sequence[str]

    def proportions(self, task: TaskPredictions, people: np.ndarray) -> dict[str, Proportion]:
        """The proportion of correct predictions in each group, in order."""
        by_name = statistics.proportions_by(self.groups, task.correct, people)
        return {name: by_name[name] for name in self.names if name in by_name}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A run's predictions for photos with a code as label."""

    job: Job
    y_true: np.ndarray
    """(photos,) codes."""
    predictions: Predictions
    subjects: Subjects
    names: Sequence[str]
    paths: Sequence[Path]
    notes: Sequence[str]
    """Lines that say which people are in the photos and how classes were decided."""

    @functools.cached_property
    def whole(self) -> TaskPredictions:
        """The codes."""
        codes = self.job.codes
        predicted = codes.of(self.predictions)
        return TaskPredictions(f"{len(codes)} codes", codes.names, self.y_true, predicted)

    @functools.cached_property
    def tasks(self) -> list[TaskPredictions]:
        """The tasks of the code, in order; a photo without a code has no prediction of any."""
        codes, bad = self.job.codes, self.whole.y_pred < 0
        return [
            TaskPredictions(
                task, classes, y_true, np.where(bad, -1, self.predictions.classes[task])
            )
            for (task, classes), y_true in zip(
                codes.classes.items(), codes.decode(self.y_true), strict=True
            )
        ]

    @property
    def all(self) -> list[TaskPredictions]:
        """The codes and the tasks."""
        return [self.whole, *self.tasks]

    @functools.cached_property
    def scores(self) -> dict[str, ScoreIntervals]:
        """Name → scores of the codes and of each task."""
        people = self.subjects.people
        return {
            task.name: statistics.score_intervals(
                task.y_true, task.y_pred, people, len(task.classes)
            )
            for task in self.all
        }

    @functools.cached_property
    def groupings(self) -> list[Grouping]:
        """Groups by the tasks after the first, which label a person, by race, and by both."""
        kept, races = self.tasks[1:], self.subjects.races
        words = [np.array(task.classes, dtype=object)[task.y_true] for task in kept]
        traits = np.array([" ".join(of_photo) for of_photo in zip(*words, strict=True)])
        order = np.lexsort([task.y_true for task in reversed(kept)])
        names = list(dict.fromkeys(traits[order].tolist()))
        title = " × ".join(task.name for task in kept)
        groupings = [Grouping(title, traits, names)]
        race_names = np.unique(races[races != ""]).tolist()
        if len(race_names) > 1:
            both = [f"{a} {b}" if b else "" for a, b in zip(traits, races, strict=True)]
            every = [f"{a} {b}" for a in names for b in race_names]
            groupings.append(Grouping("race", races, race_names))
            groupings.append(Grouping(f"{title} × race", np.array(both), every))
        return groupings
