"""python -m common.tools.audit DIR: see `common.tools.audit.command`."""

import sys

from common.tools.audit.command import main

if __name__ == "__main__":
    sys.exit(main())
