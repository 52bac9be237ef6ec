"""Train the age model: python -m age.train"""

from age.recipe import AgeRecipe
from common.training.command import main

if __name__ == "__main__":
    raise SystemExit(main(AgeRecipe))
