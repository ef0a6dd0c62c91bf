"""Pipelines for CI engines: valid by the engines' own schemas, one job a cell, the README's commands and no more."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pgpool_deb import pipelines
from pgpool_deb.errors import UsageError
from pgpool_deb.project import Project
from pgpool_deb.releases import ReleaseTable

HERE = Path(__file__).parents[2]
RELEASES = [release.name for release in ReleaseTable.load(Project(HERE).releases).releases]
SCHEMAS = {"github": "vendor.github-workflows", "gitlab": "vendor.gitlab-ci"}


def loaded(engine: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(pipelines.text(engine, RELEASES))
    return found


def schema_says(engine: str, file: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", SCHEMAS[engine], str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("engine", pipelines.ENGINES)
def test_the_engines_own_schema_accepts_it(engine: str, tmp_path: Path) -> None:
    said = schema_says(engine, pipelines.write(tmp_path, engine, RELEASES))
    assert said.returncode == 0, said.stdout


@pytest.mark.parametrize(
    ("engine", "good", "bad"), [("github", "runs-on:", "run-on:"), ("gitlab", "when: always", "when: seven")]
)
def test_the_schema_would_find_a_fault(engine: str, good: str, bad: str, tmp_path: Path) -> None:
    file = pipelines.write(tmp_path, engine, RELEASES)
    file.write_text(file.read_text().replace(good, bad))
    assert schema_says(engine, file).returncode == 1


def test_there_is_a_job_for_every_release_and_one_that_fails_stops_no_other() -> None:
    strategy = loaded("github")["jobs"]["cell"]["strategy"]
    assert (strategy["matrix"]["release"], strategy["fail-fast"]) == (RELEASES, False)
    assert [name for name in loaded("gitlab") if name in RELEASES] == RELEASES


def test_every_action_is_pinned_by_commit_and_the_token_may_only_read() -> None:
    workflow = loaded("github")
    used = [step["uses"] for step in workflow["jobs"]["cell"]["steps"] if "uses" in step]
    assert used
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action) for action in used)
    assert workflow["permissions"] == {"contents": "read"}


def test_what_proves_a_cell_is_the_readmes_command() -> None:
    readme = (HERE / "README.md").read_text()
    steps = [step["run"] for step in loaded("github")["jobs"]["cell"]["steps"] if "run" in step]
    for command in (*steps, *loaded("gitlab")["trixie"]["script"]):
        if command != pipelines.PREPARE:
            assert command.split(" --release ")[0] in readme


def test_the_cache_lies_on_a_volume_as_a_containers_own_disk_is_an_overlay() -> None:
    cell = loaded("github")["jobs"]["cell"]
    assert [volume.split(":")[1] for volume in cell["container"]["volumes"]] == [cell["env"]["PGPOOL_DEB_CACHE"]]
    cache = loaded("gitlab")["variables"]["PGPOOL_DEB_CACHE"]
    assert cache.startswith("$CI_PROJECT_DIR/")  # GitLab's runners have a volume for checkouts
    folder = cache.replace("$CI_PROJECT_DIR", str(HERE)) + "/"
    assert subprocess.run(["git", "check-ignore", "--quiet", folder], cwd=HERE, check=False).returncode == 0


def test_reports_and_packages_are_kept_of_a_run_that_failed_too() -> None:
    (upload,) = [step for step in loaded("github")["jobs"]["cell"]["steps"] if step.get("if")]
    assert upload["if"] == "always()"
    assert "dist/report" in upload["with"]["path"].split()
    assert loaded("gitlab")["default"]["artifacts"]["when"] == "always"


def test_a_file_of_somebody_elses_is_left_alone_and_our_own_is_written_anew(tmp_path: Path) -> None:
    path = pipelines.write(tmp_path, "gitlab", ["trixie"])
    assert pipelines.write(tmp_path, "gitlab", RELEASES).read_text() == pipelines.text("gitlab", RELEASES)
    path.write_text("mine: true\n")
    with pytest.raises(UsageError, match="not of this program's making"):
        pipelines.write(tmp_path, "gitlab", RELEASES)
    assert path.read_text() == "mine: true\n"


def test_an_engine_that_there_is_not_is_told() -> None:
    with pytest.raises(UsageError, match="unknown engine of CI: jenkins"):
        pipelines.text("jenkins", RELEASES)
