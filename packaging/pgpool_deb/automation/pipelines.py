"""`./invoke ci github|gitlab`: write a pipeline from the release table for the CI engine that a team already has.

One job per cell runs the README's own commands in a Debian container. One job publishes the proved packages, one
promotes them by hand, and one opens changes with news from upstream or Debian (docs/how-to/run-a-pipeline.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pgpool_deb.ground import atomic
from pgpool_deb.ground.errors import MachineError, UsageError

from . import pipeline_github, pipeline_gitlab

HEAD = "# Written by `./invoke ci {engine}` from packaging/releases.toml: run it again after a change there.\n"


@dataclass(frozen=True, slots=True)
class CiEngine:
    """A CI engine: the path of its pipeline file, and the function that makes one for releases."""

    path: str
    pipeline: Callable[[Sequence[str]], dict[str, Any]]


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as a block."""

    def ignore_aliases(self, data: object) -> bool:
        """Write repeated values in full, because people read these files."""
        return True


def _represented(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _represented)
ENGINES = {
    "github": CiEngine(f".github/workflows/{pipeline_github.FILE}", pipeline_github.pipeline),
    "gitlab": CiEngine(".gitlab-ci.yml", pipeline_gitlab.pipeline),
}


def text(engine: str, releases: Sequence[str]) -> str:
    """Return the pipeline file of an engine; raises UsageError for an unknown one."""
    if engine not in ENGINES:
        raise UsageError(f"unknown CI engine: {engine}", hint=f"one of {', '.join(ENGINES)}")
    pipeline = ENGINES[engine].pipeline(releases)
    return HEAD.format(engine=engine) + yaml.dump(pipeline, Dumper=_Dumper, sort_keys=False, width=120)


def write(project: Path, engine: str, releases: Sequence[str]) -> Path:
    """Write the pipeline file into the checkout and return its path.

    Raises UsageError if the path has a file that this program did not write, MachineError if it cannot be written.
    """
    content = text(engine, releases)
    path = project / ENGINES[engine].path
    try:
        if path.exists() and not path.read_text(encoding="utf-8").startswith(HEAD.format(engine=engine)):
            raise UsageError(f"this program did not write {path}", hint="move it away, then run this again")
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(path, content)
    except OSError as error:
        raise MachineError(
            f"{path} cannot be written: {error.strerror}", hint="check the permissions of its folder"
        ) from error
    return path
