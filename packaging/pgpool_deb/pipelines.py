"""`./invoke ci github|gitlab`: a pipeline for an engine that a team already has, from the release table.

One job a cell runs the README's own commands in a Debian container, one publishes what they proved, one promotes it by
hand, and one opens a change where upstream or Debian has something new (docs/how-to/run-a-pipeline.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from . import atomic, pipeline_github, pipeline_gitlab
from .errors import MachineError, UsageError

HEAD = "# Written by `./invoke ci {engine}` from packaging/releases.toml: run it again after a change there.\n"


@dataclass(frozen=True, slots=True)
class Engine:
    """A CI engine: where it looks for its pipeline, and what makes one for these releases."""

    path: str
    pipeline: Callable[[Sequence[str]], dict[str, Any]]


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as such."""

    def ignore_aliases(self, data: object) -> bool:
        """Write what is there twice twice: people read these files."""
        return True


def _represented(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _represented)
ENGINES = {
    "github": Engine(f".github/workflows/{pipeline_github.FILE}", pipeline_github.pipeline),
    "gitlab": Engine(".gitlab-ci.yml", pipeline_gitlab.pipeline),
}


def text(engine: str, releases: Sequence[str]) -> str:
    """Return the pipeline file of an engine; raises UsageError for an unknown one."""
    if engine not in ENGINES:
        raise UsageError(f"unknown engine of CI: {engine}", hint=f"one of {', '.join(ENGINES)}")
    made = ENGINES[engine].pipeline(releases)
    return HEAD.format(engine=engine) + yaml.dump(made, Dumper=_Dumper, sort_keys=False, width=120)


def write(project: Path, engine: str, releases: Sequence[str]) -> Path:
    """Write the pipeline file into the checkout and return its path.

    Raises UsageError where a file is there that this did not write, MachineError where it cannot be written.
    """
    content = text(engine, releases)
    path = project / ENGINES[engine].path
    try:
        if path.exists() and not path.read_text(encoding="utf-8").startswith(HEAD.format(engine=engine)):
            raise UsageError(f"{path} is not of this program's making", hint="move it away, then run this again")
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(path, content)
    except OSError as error:
        raise MachineError(
            f"{path} cannot be written: {error.strerror}", hint="see its folder's permissions"
        ) from error
    return path
