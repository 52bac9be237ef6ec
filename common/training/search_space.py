"""Fields of a recipe that `tune` varies, and the distributions that Optuna draws them from."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from common.model.recipe import Recipe

if TYPE_CHECKING:
    from optuna import Trial

Space = dict[str, Callable[["Trial"], Any]]  # field → draws its value in a trial

TRIED_AUGMENTATIONS = (
    "light",
    "light affine colour",
    "light affine exposure",
    "light framing exposure",
    "light framing exposure randaugment",
    "own",
    "none",
)


def search_space(recipe: Recipe) -> Space:
    """The space around `recipe`, which it lies in: fields of all tasks, then those of its own."""
    augmentations = dict.fromkeys((" ".join(recipe.aug), *TRIED_AUGMENTATIONS))
    return {
        "lr": number("lr", recipe.lr / 10, recipe.lr * 10, log=True),
        "weight_decay": number("weight_decay", 1e-6, 0.2, log=True),
        "opt": one_of("opt", (recipe.opt, "adam", "adamw", "madgrad")),
        "sched": one_of("sched", (recipe.sched, "constant", "cosine")),
        "batch_size": one_of("batch_size", (recipe.batch_size, 32, 64, 128)),
        "drop": number("drop", 0, 0.5),
        "smoothing": number("smoothing", 0, 0.2),
        "aug": lambda trial: tuple(trial.suggest_categorical("aug", tuple(augmentations)).split()),
        "mixup": one_of("mixup", (recipe.mixup, 0.0, 0.2, 0.4, 0.8)),
        "sampler": one_of("sampler", ("shuffle", "class")),
        **recipe.search_space(),
    }


def number(name: str, low: float, high: float, *, log: bool = False) -> Callable[["Trial"], float]:
    """Draw a number from `low` to `high`, rounded to three digits."""
    return lambda trial: float(f"{trial.suggest_float(name, low, high, log=log):.3g}")


def one_of(name: str, values: Sequence[Any]) -> Callable[["Trial"], Any]:
    """Draw one of `values`; a value may be repeated."""
    return lambda trial: trial.suggest_categorical(name, tuple(dict.fromkeys(values)))
