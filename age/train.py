"""Train the age model: python -m age.train"""

import sys

from age.recipe import AgeRecipe
from common.training.command import main

if __name__ == "__main__":
    sys.exit(main(AgeRecipe))
