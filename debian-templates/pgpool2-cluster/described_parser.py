"""pgpoolctl's parser, with what only its manual page says."""

import argparse

from pgpool_cluster import command_line


def parser() -> argparse.ArgumentParser:
    """Return the parser as argparse-manpage takes it, of whatever version."""
    described = command_line.parser()
    described.man_short_description = "look after a node of a PostgreSQL cluster behind pgpool-II"  # type: ignore[attr-defined]
    return described
