"""python -m common.tools.demo DIR: see `common.tools.demo.dataset`."""

import sys

from common.tools.demo.dataset import main

if __name__ == "__main__":
    sys.exit(main())
