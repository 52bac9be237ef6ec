"""Train the gender model: python -m gender.train"""

import sys

from common.training.command import main
from gender.recipe import GenderRecipe

if __name__ == "__main__":
    sys.exit(main(GenderRecipe))
