"""`./invoke ci github|gitlab`: a pipeline for an engine that a team already has, from the release table.

One job a cell runs the README's own commands in a Debian container; what it keeps between runs is the toolkit's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from . import atomic
from .errors import MachineError, UsageError

HEAD = "# Written by `./invoke ci {engine}` from packaging/releases.toml: run it again after a change there.\n"
IMAGE = "debian:trixie"
"""The oldest Debian stable image would do; the newest has the newer tools."""
PREPARE = "apt-get update && apt-get install -y --no-install-recommends ca-certificates git python3 python3-venv zstd"
PROVE = "./invoke matrix --release {release}"
CACHE = "/var/cache/pgpool-deb"
"""Engines change the home folder, where it would be otherwise. A container's own disk is an overlay, where roots cannot
be mounted, so this is a volume."""
GITLAB_CACHE = "$CI_PROJECT_DIR/.pgpool-deb"
"""GitLab's jobs cannot ask for volumes; the checkout lies on one."""
CHECKOUT = "actions/checkout@08c6903cd8c0fde910a37f88322edcfb5dd907a8"  # v5.0.0
KEEP = "actions/cache@0400d5f644dc74513175e3cd8d07132dd4860809"  # v4.2.4
UPLOAD = "actions/upload-artifact@ea165f8d65b6e75b540449e92b4886f43607fa02"  # v4.6.2
INPUTS = ("packaging/**", "debian-templates/**", "requirements.lock")


@dataclass(frozen=True, slots=True)
class Engine:
    """A CI engine: where it looks for its pipeline, and what makes one for these releases."""

    path: str
    pipeline: Callable[[Sequence[str]], dict[str, Any]]


def github(releases: Sequence[str]) -> dict[str, Any]:
    """Return a GitHub Actions workflow. The container is privileged, as roots are mounted and hosts are booted in it.

    The token may read the checkout and nothing else; actions are pinned by commit.
    """
    names = "${{ matrix.release }}"
    hashed = ", ".join(f"'{pattern}'" for pattern in INPUTS)
    return {
        "name": "packages",
        "on": {"push": {"branches": ["main"]}, "pull_request": {}, "workflow_dispatch": {}},
        "permissions": {"contents": "read"},
        "concurrency": {"group": "packages-${{ github.ref }}", "cancel-in-progress": True},
        "jobs": {
            "cell": {
                "name": names,
                "runs-on": "ubuntu-24.04",
                "container": {
                    "image": IMAGE,
                    "volumes": [f"pgpool-deb:{CACHE}"],
                    "options": "--privileged --cgroupns=private",
                },
                "env": {"PGPOOL_DEB_CACHE": CACHE},
                "timeout-minutes": 120,
                "strategy": {"fail-fast": False, "matrix": {"release": list(releases)}},
                "steps": [
                    {"name": "tools", "run": PREPARE},
                    {"uses": CHECKOUT, "with": {"persist-credentials": False}},
                    {
                        "name": "roots and compiler cache",
                        "uses": KEEP,
                        "with": {
                            "path": CACHE,
                            "key": f"pgpool-deb-{names}-${{{{ hashFiles({hashed}) }}}}",
                            "restore-keys": f"pgpool-deb-{names}-",
                        },
                    },
                    {"name": "build and prove", "run": PROVE.format(release=names)},
                    {
                        "name": "report and packages",
                        "if": "always()",
                        "uses": UPLOAD,
                        "with": {
                            "name": names,
                            "path": f"dist/report\ndist/{names}\n",
                            "if-no-files-found": "error",
                        },
                    },
                ],
            }
        },
    }


def gitlab(releases: Sequence[str]) -> dict[str, Any]:
    """Return a GitLab pipeline, for a runner whose containers are privileged.

    GitLab keeps caches as zip files, which lose owners and devices: the toolkit's cache is packed as one tar.
    """
    release = "$RELEASE"
    every: dict[str, Any] = {
        "image": IMAGE,
        "timeout": "2 hours",
        "before_script": [
            PREPARE,
            'mkdir -p "$PGPOOL_DEB_CACHE"',
            'if [ -f cache.tar.zst ]; then tar -C "$PGPOOL_DEB_CACHE" --numeric-owner -xpf cache.tar.zst; fi',
        ],
        "after_script": ['tar -C "$PGPOOL_DEB_CACHE" --numeric-owner --zstd -cf cache.tar.zst .'],
        "cache": {"key": f"pgpool-deb-{release}", "paths": ["cache.tar.zst"], "when": "always"},
        "artifacts": {
            "name": release,
            "when": "always",
            "paths": ["dist/report/", f"dist/{release}/"],
            "reports": {"junit": "dist/report/junit.xml"},
            "expire_in": "4 weeks",
        },
    }
    script = [PROVE.format(release=release)]
    jobs = {name: {"stage": "test", "variables": {"RELEASE": name}, "script": script.copy()} for name in releases}
    return {"stages": ["test"], "variables": {"PGPOOL_DEB_CACHE": GITLAB_CACHE}, "default": every, **jobs}


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as such."""


def _represented(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _represented)
ENGINES = {
    "github": Engine(".github/workflows/packages.yml", github),
    "gitlab": Engine(".gitlab-ci.yml", gitlab),
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
