"""Pipelines for CI engines are valid by the engines' schemas and have one job for each cell; few jobs have secrets."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pgpool_deb.automation import pipeline_steps as steps
from pgpool_deb.automation import pipelines
from pgpool_deb.ground.errors import UsageError
from pgpool_deb.ground.project import Project
from pgpool_deb.ground.releases import ReleaseTable

HERE = Path(__file__).parents[3]
RELEASES = [release.name for release in ReleaseTable.load(Project(HERE).releases).releases]
SCHEMAS = {"github": "vendor.github-workflows", "gitlab": "vendor.gitlab-ci"}


def loaded(engine: str) -> dict[str, Any]:
    result: dict[str, Any] = yaml.safe_load(pipelines.text(engine, RELEASES))
    return result


def schema_says(engine: str, file: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", SCHEMAS[engine], str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("engine", pipelines.ENGINES)
def test_the_engines_own_schema_accepts_the_pipeline(engine: str, tmp_path: Path) -> None:
    output = schema_says(engine, pipelines.write(tmp_path, engine, RELEASES))
    assert output.returncode == 0, output.stdout


@pytest.mark.parametrize(
    ("engine", "good", "bad"), [("github", "runs-on:", "run-on:"), ("gitlab", "when: always", "when: seven")]
)
def test_the_schema_rejects_a_fault(engine: str, good: str, bad: str, tmp_path: Path) -> None:
    file = pipelines.write(tmp_path, engine, RELEASES)
    file.write_text(file.read_text().replace(good, bad))
    assert schema_says(engine, file).returncode == 1


def test_every_release_has_a_job_and_a_failure_stops_no_other() -> None:
    strategy = loaded("github")["jobs"]["cell"]["strategy"]
    assert (strategy["matrix"]["release"], strategy["fail-fast"]) == (RELEASES, False)
    assert [name for name in loaded("gitlab") if name in RELEASES] == RELEASES


def test_every_action_is_pinned_by_commit() -> None:
    used = {step["uses"] for job in loaded("github")["jobs"].values() for step in job["steps"] if "uses" in step}
    assert len(used) > 1
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action) for action in used)


def test_only_jobs_that_push_have_a_token_that_may_write() -> None:
    workflow = loaded("github")
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        pushes = any("git push" in run or "push --quiet" in run for run in runs(job))
        assert (job.get("permissions", {}).get("contents") == "write") == pushes, name
        assert not (pushes and "--privileged" in str(job)), f"{name} builds what others wrote"
        checkouts = [step for step in job["steps"] if "checkout" in step.get("uses", "")]
        assert all(step["with"] == {"persist-credentials": False} for step in checkouts)


def runs(job: dict[str, Any]) -> list[str]:
    """Return the scripts of a job of either engine."""
    if "steps" in job:
        return [step["run"] for step in job["steps"] if "run" in step]
    return [*job.get("before_script", []), *job.get("script", []), *job.get("after_script", [])]


def jobs(engine: str) -> dict[str, dict[str, Any]]:
    result = loaded(engine)
    if engine == "github":
        return dict(result["jobs"])
    return {
        name: job for name, job in result.items() if isinstance(job, dict) and ("script" in job or "extends" in job)
    }


@pytest.mark.parametrize("engine", pipelines.ENGINES)
def test_only_jobs_that_sign_name_the_key(engine: str) -> None:
    named = {name for name, job in jobs(engine).items() if steps.KEY in str(job)}
    assert named == {"publish", "promote", "renew"}
    for name in named:
        environment = jobs(engine)[name]["environment"]
        text = environment if isinstance(environment, str) else environment["name"]
        assert text == ("packages-stable" if name == "promote" else "packages-testing"), "its protection is set there"


def test_on_github_one_step_has_the_key_in_its_environment() -> None:
    for job in (loaded("github")["jobs"][name] for name in ("publish", "promote", "renew")):
        assert steps.KEY not in str(job["env"])
        (step,) = [step for step in job["steps"] if steps.KEY in str(step)]
        assert step["run"].startswith("./invoke ")
        assert "--no-install" in step["run"]
        assert len(step["run"].splitlines()) == 1


def test_on_gitlab_only_the_signing_program_has_the_key() -> None:
    for name in ("publish", "promote", "renew"):
        first, *others = runs(jobs("gitlab")[name])
        assert first == f"archive_key=${steps.KEY}; unset {steps.KEY}"
        (sign,) = [script for script in others if "archive_key" in script]
        assert sign.startswith(f'{steps.KEY}="$archive_key" ./invoke ')
        assert sign.endswith("unset archive_key\n")


@pytest.mark.parametrize("engine", pipelines.ENGINES)
def test_jobs_that_change_the_repository_run_one_at_a_time_to_their_end(engine: str) -> None:
    for name in ("publish", "promote", "renew"):
        job = jobs(engine)[name]
        if engine == "github":
            assert job["concurrency"] == {"group": "packages-repository", "cancel-in-progress": False}
        else:
            assert job["resource_group"] == "packages-repository"


def test_only_the_default_branch_publishes_and_people_promote() -> None:
    github, gitlab = jobs("github"), jobs("gitlab")
    for name in ("publish", "promote", "renew"):
        assert "github.ref_name == github.event.repository.default_branch" in github[name]["if"]
    assert "inputs.task == 'promote'" in github["promote"]["if"]
    for name in ("publish", "promote"):
        (rule,) = [rule for rule in gitlab[name]["rules"] if rule.get("when") != "never"]
        assert "$CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH" in rule["if"]
    assert [rule["when"] for rule in gitlab["promote"]["rules"]] == ["never", "manual"]


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("engine", pipelines.ENGINES)
def test_shellcheck_accepts_the_scripts_of_jobs(engine: str) -> None:
    for name, job in jobs(engine).items():
        scripts = runs(job) if engine == "github" else ["\n".join(runs(job))]
        for script in scripts:
            plain = "set -e\n" + re.sub(r"\$\{\{.*?\}\}", "filled-in", script)  # as both engines run it
            command = ["shellcheck", "--shell=sh", "--severity=warning", "-"]
            answer = subprocess.run(command, input=plain, capture_output=True, text=True, check=False)
            assert answer.returncode == 0, f"{name}: {answer.stdout}"


def test_the_readmes_command_proves_a_cell() -> None:
    readme = (HERE / "README.md").read_text()
    for script in (*runs(jobs("github")["cell"]), *jobs("gitlab")[".cell"]["script"]):
        if script != steps.PREPARE:
            assert script.split(" --release ")[0] in readme


def test_the_cache_is_on_a_volume() -> None:
    cell = loaded("github")["jobs"]["cell"]
    assert [volume.split(":")[1] for volume in cell["container"]["volumes"]] == [cell["env"]["PGPOOL_DEB_CACHE"]]
    cache = loaded("gitlab")["variables"]["PGPOOL_DEB_CACHE"]
    assert cache.startswith("$CI_PROJECT_DIR/")  # GitLab's runners have a volume for checkouts
    folder = cache.replace("$CI_PROJECT_DIR", str(HERE)) + "/"
    assert subprocess.run(["git", "check-ignore", "--quiet", folder], cwd=HERE, check=False).returncode == 0


def test_failed_runs_also_keep_reports_and_packages() -> None:
    (upload,) = [step for step in loaded("github")["jobs"]["cell"]["steps"] if step.get("if")]
    assert upload["if"] == "always()"
    assert "dist/report" in upload["with"]["path"].split()
    assert loaded("gitlab")[".cell"]["artifacts"]["when"] == "always"


def test_only_a_pipeline_of_our_own_is_replaced(tmp_path: Path) -> None:
    path = pipelines.write(tmp_path, "gitlab", ["trixie"])
    assert pipelines.write(tmp_path, "gitlab", RELEASES).read_text() == pipelines.text("gitlab", RELEASES)
    path.write_text("mine: true\n")
    with pytest.raises(UsageError, match="this program did not write"):
        pipelines.write(tmp_path, "gitlab", RELEASES)
    assert path.read_text() == "mine: true\n"


def test_an_unknown_engine_is_reported() -> None:
    with pytest.raises(UsageError, match="unknown CI engine: jenkins"):
        pipelines.text("jenkins", RELEASES)
