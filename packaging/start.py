"""What ./invoke runs: the command line of the checkout that this file is in."""

from pathlib import Path

from pgpool_deb.program import main

if __name__ == "__main__":
    main(str(Path(__file__).absolute().parents[1]))
