"""Search for a better mask recipe: python -m mask.tune --trials 30 --hours 2"""

from common.training.command import main
from mask.recipe import MaskRecipe

if __name__ == "__main__":
    raise SystemExit(main(MaskRecipe, verb="tune"))
