"""Search for a better age recipe: python -m age.tune --trials 30 --hours 2"""

from age.recipe import AgeRecipe
from common.training.command import main

if __name__ == "__main__":
    raise SystemExit(main(AgeRecipe, verb="tune"))
