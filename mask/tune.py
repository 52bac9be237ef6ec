"""Search for a better mask recipe: python -m mask.tune --trials 30 --hours 2"""

import sys

from common.training.command import tune
from mask.recipe import MaskRecipe

if __name__ == "__main__":
    sys.exit(tune(MaskRecipe))
