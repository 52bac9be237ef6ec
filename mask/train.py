"""Train the mask model: python -m mask.train"""

import sys

from common.training.command import main
from mask.recipe import MaskRecipe

if __name__ == "__main__":
    sys.exit(main(MaskRecipe))
