"""Flags that have no effect beside the others are refused, by one declaration of what needs what."""

import pytest

from age.recipe import AgeRecipe
from common.base.errors import UserError
from common.training.command import parse
from gender.recipe import GenderRecipe
from mask.recipe import MaskRecipe


@pytest.mark.parametrize(
    ("recipe", "line", "needs"),
    [
        (AgeRecipe, "--smoothing 0.3", "--smoothing needs --loss cross_entropy or weighted_ce or"),
        (AgeRecipe, "--gamma 5", "--gamma needs --loss focal or cb_focal"),
        (MaskRecipe, "--gamma 5", "--gamma needs --loss focal or cb_focal"),
        (AgeRecipe, "--loss focal --sigma 2", "--sigma needs --loss dldl"),
        (AgeRecipe, "--loss focal --group-weight 2", "--group-weight needs --loss dldl"),
        (AgeRecipe, "--loss focal --aux --bins 10-70", "--bins needs --loss dldl or --aux years"),
        (MaskRecipe, "--f1-weight 0.3", "--f1-weight needs --loss ce+f1"),
        (MaskRecipe, "--loss focal --beta 0.9995", "--beta needs --loss cb_focal"),
        (MaskRecipe, "--sched none --min-lr 1e-6", "--min-lr needs --sched cosine"),
        (MaskRecipe, "--decay-rate 0.5", "--decay-rate needs --sched step"),
        (MaskRecipe, "--decay-epochs 2", "--decay-epochs needs --sched step"),
        (MaskRecipe, "--decay-milestones 2", "--decay-milestones needs --sched multistep"),
        (MaskRecipe, "--sched none --warmup-epochs 1", "--warmup-epochs needs --sched constant"),
        (MaskRecipe, "--sched step --cycle-epochs 2", "--cycle-epochs needs --sched cosine"),
        (MaskRecipe, "--cycle-decay 0.5", "--cycle-decay needs --cycle-epochs"),
        (MaskRecipe, "--mixup 0.2 --cutmix-halves", "--cutmix-halves needs --cutmix"),
        (MaskRecipe, "--crop center --margin 0.1", "--margin needs --crop face or eyes"),
        (MaskRecipe, "--crop none --center 350", "--center needs --crop face or eyes or center"),
        (
            MaskRecipe,
            "--randaugment-magnitude 5",
            "--randaugment-magnitude needs --aug randaugment",
        ),
        (MaskRecipe, "--mix-within-class", "--mix-within-class needs --mixup or --cutmix"),
        (MaskRecipe, "--aux --aux-weight 2", "--aux-weight needs --aux"),
        (MaskRecipe, "--wandb-project faces", "--wandb-project needs --log-wandb"),
    ],
)
def test_a_flag_without_effect_is_refused(recipe: type, line: str, needs: str) -> None:
    with pytest.raises(UserError, match="^" + needs.replace("+", r"\+")):
        parse(recipe, line.split())


@pytest.mark.parametrize("recipe", [MaskRecipe, GenderRecipe, AgeRecipe])
def test_turning_something_off_needs_nothing(recipe: type) -> None:
    line = "--sched none --warmup-epochs 0 --smoothing 0 --aux --mixup 0 --model-ema-decay 0"
    parse(recipe, line.split())


def test_a_flag_that_acts_is_taken() -> None:
    parse(AgeRecipe, ["--loss", "focal", "--gamma", "3", "--smoothing", "0.1"])
    parse(MaskRecipe, ["--aug", "light", "randaugment", "--randaugment-magnitude", "5"])
    parse(MaskRecipe, ["--cutmix", "1", "--mix-within-class"])
