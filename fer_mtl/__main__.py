"""`python -m fer_mtl COMMAND` is `fer-mtl COMMAND`, where that is not on the path or another Python's."""

from __future__ import annotations

import sys

from fer_mtl.cli import main

if __name__ == "__main__":
    sys.exit(main())
