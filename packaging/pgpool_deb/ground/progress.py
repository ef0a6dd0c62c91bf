"""The type of the function that prints a line about the progress of a run."""

from __future__ import annotations

from collections.abc import Callable

Report = Callable[[str], None]
"""Takes one line for the user, without a line feed."""
