"""Optimizers, schedules and moving averages of timm, by a recipe's settings."""

import math
from typing import Any

import torch
from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3

from common.base.errors import UserError, suggestion
from common.model.recipe import Recipe


def check_optimizer(name: str) -> None:
    """Check that timm has the optimizer `name`, perhaps with lookahead_ before it.

    Raises:
        UserError: it doesn't; the message names the nearest one that it has.
    """
    known = list_optimizers()
    own = name.lower().removeprefix("lookahead_")
    if own not in known:
        raise UserError(f"--opt {name}: timm has no such optimizer{suggestion(own, known)}")


def make_optimizer(recipe: Recipe, model: torch.nn.Module) -> torch.optim.Optimizer:
    """Make timm's optimizer of the name in --opt.

    Raises:
        UserError: timm has none of that name.
    """
    try:
        return create_optimizer_v2(
            model, opt=recipe.opt, lr=recipe.lr, weight_decay=recipe.weight_decay
        )
    except (ValueError, AssertionError) as error:
        raise UserError(f"--opt {recipe.opt}: {error}") from None


def make_scheduler(recipe: Recipe, optimizer: torch.optim.Optimizer, steps: int) -> Any:
    """Make timm's schedule for `steps` of the optimizer an epoch; None for --sched none.

    --cycle-epochs restarts it at the full learning rate (SGDR, Loshchilov & Hutter 2017).

    Raises:
        UserError: timm has no such schedule.
    """
    cycle = recipe.cycle_epochs or recipe.epochs
    try:
        scheduler, _ = create_scheduler_v2(
            optimizer,
            sched=recipe.sched,
            num_epochs=cycle,
            cycle_limit=math.ceil(recipe.epochs / cycle),
            cycle_decay=recipe.cycle_decay,
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
    """Make a moving average of the weights, if asked for; it follows them closely at first."""
    if not recipe.model_ema_decay:
        return None
    return ModelEmaV3(model, decay=recipe.model_ema_decay, use_warmup=True)
