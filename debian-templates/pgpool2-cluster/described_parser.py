"""pgpoolctl's parser, with the text that only the manual page has."""

import argparse

from pgpool_cluster.cli import command_line


def parser() -> argparse.ArgumentParser:
    """Return the parser in the form that every version of argparse-manpage accepts."""
    described = command_line.parser()
    described.man_short_description = "manage a node of a PostgreSQL cluster behind pgpool-II"  # type: ignore[attr-defined]
    return described
