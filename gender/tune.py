"""Search for a better gender recipe: python -m gender.tune --trials 30 --hours 2"""

from common.training.command import main
from gender.recipe import GenderRecipe

if __name__ == "__main__":
    raise SystemExit(main(GenderRecipe, verb="tune"))
