"""Run the command line of the checkout that contains this file; ./invoke starts it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).absolute().parent))  # Python does not do it with PYTHONSAFEPATH

from pgpool_deb.program import main

if __name__ == "__main__":
    main(str(Path(__file__).absolute().parents[1]))
