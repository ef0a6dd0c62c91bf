"""What ./invoke runs: the command line of the checkout that this file is in."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).absolute().parent))  # with PYTHONSAFEPATH, Python does not

from pgpool_deb.program import main

if __name__ == "__main__":
    main(str(Path(__file__).absolute().parents[1]))
