"""Search for a better age recipe: python -m age.tune --trials 30 --hours 2"""

import sys

from age.recipe import AgeRecipe
from common.training.command import tune

if __name__ == "__main__":
    sys.exit(tune(AgeRecipe))
