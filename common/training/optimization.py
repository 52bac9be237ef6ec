"""Timm's optimizers, schedules and moving average, as a recipe asks for them."""

import math
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3

from common.base.errors import UserError
from common.model.recipe import Recipe


def make_optimizer(recipe: Recipe, model: torch.nn.Module) -> torch.optim.Optimizer:
    """Timm's optimizer by name; UserError for a name that it doesn't know."""
    try:
        return create_optimizer_v2(
            model, opt=recipe.opt, lr=recipe.lr, weight_decay=recipe.weight_decay
        )
    except (ValueError, AssertionError) as error:
        raise UserError(f"--opt {recipe.opt}: {error}") from None


def make_scheduler(recipe: Recipe, optimizer: torch.optim.Optimizer, steps: int) -> Any:
    """Timm's schedule in steps of the optimizer, or None; UserError where it has none such.

    --cycle-epochs restarts it at full height (SGDR, Loshchilov & Hutter 2017).
    """
    cycle = recipe.cycle_epochs or recipe.epochs
    try:
        scheduler, _ = create_scheduler_v2(
            optimizer,
            sched=recipe.sched,
            num_epochs=cycle,
            cycle_limit=math.ceil(recipe.epochs / cycle),
            cycle_decay=1.0,
            decay_epochs=recipe.decay_epochs,
            decay_milestones=recipe.decay_milestones,
            decay_rate=recipe.decay_rate,
            min_lr=recipe.min_lr,
            warmup_epochs=recipe.warmup_epochs,
            warmup_lr=recipe.lr / 100,
            step_on_epochs=False,
            updates_per_epoch=steps,
        )
    except ValueError as error:
        raise UserError(f"--sched {recipe.sched}: {error}") from None
    return scheduler


def make_ema(recipe: Recipe, model: torch.nn.Module) -> ModelEmaV3 | None:
    """A moving average of the weights, if asked for; it follows closely at first."""
    if recipe.model_ema_decay is None:
        return None
    return ModelEmaV3(model, decay=recipe.model_ema_decay, use_warmup=True)
