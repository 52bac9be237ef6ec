"""Search for a better gender recipe: python -m gender.tune --trials 30 --hours 2"""

import sys

from common.training.command import tune
from gender.recipe import GenderRecipe

if __name__ == "__main__":
    sys.exit(tune(GenderRecipe))
