"""Git commands in a checkout of this project that belongs to the user; git_checkout.py reads those of strangers."""

from __future__ import annotations

import subprocess
from pathlib import Path

from .errors import MachineError


def git(checkout: Path, *words: str) -> str:
    """Return what git prints; raises MachineError with its last line if it fails."""
    answer = subprocess.run(["git", *words], cwd=checkout, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        said = answer.stderr.strip().splitlines()
        hint = "run this command in your own git checkout, and set user.name and user.email in git config"
        raise MachineError(f"git {words[0]} failed: {said[-1] if said else answer.returncode}", hint=hint)
    return answer.stdout
