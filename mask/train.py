"""Train the mask model: python -m mask.train"""

from common.training.command import main
from mask.recipe import MaskRecipe

if __name__ == "__main__":
    raise SystemExit(main(MaskRecipe))
