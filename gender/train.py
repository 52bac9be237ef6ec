"""Train the gender model: python -m gender.train"""

from common.training.command import main
from gender.recipe import GenderRecipe

if __name__ == "__main__":
    raise SystemExit(main(GenderRecipe))
