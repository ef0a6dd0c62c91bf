"""Run the scripts of a pipeline's jobs with real keys, a real repository, and a project on a real git remote.

The test plays the CI engine's part: it makes the checkout, passes artifacts on, expands expressions, and sets
variables. apt and GitHub's `gh` are programs that record their arguments.

Not in the unit level: each job is several runs of `./invoke` in a new checkout, with gpg and apt-ftparchive.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.unit.runs.reports import run_of
from tests.unit.upstream.repositories import git

from pgpool_deb.automation import pipelines
from pgpool_deb.automation.pipeline_steps import BRANCH, CHANGE, KEY
from pgpool_deb.ground.errors import ExitStatus
from pgpool_deb.ground.project import Project
from pgpool_deb.ground.releases import ReleaseTable
from pgpool_deb.repository import check, signing, suites
from pgpool_deb.repository.tree import Repository
from pgpool_deb.runs.proof import StageState
from pgpool_deb.upstream.pins import Pins

HERE = Path(__file__).parents[2]
TABLE = ReleaseTable.load(Project(HERE).releases)
RELEASES = [release.name for release in TABLE.releases]
TWO = RELEASES[:2]
"""Those that are published here."""
TOKEN = f"token-{os.getpid()}"
SYNC = "ls >../../synchronised"
NOTE = """#!/bin/sh
printf '%s\\n' "${0##*/} $*" >>"$NOTES"
"""


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the signing subkey, as it would be stored on the platform."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("key")))
        with signing.key(None, int(time.time()) - 60, print) as own:
            words = ["gpg", "--homedir", str(own.home), "--batch", "--armor", "--export-secret-subkeys"]
            return subprocess.run([*words, *own.fingerprints], capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Copy this checkout's Python environment, which `./invoke` adapts to its new path.

    The libraries are those of this checkout, by a link: `./invoke` writes only beside them.
    """
    place = tmp_path_factory.mktemp("environment") / "venv"
    libraries = (HERE / ".venv" / "lib").resolve()
    shutil.copytree(HERE / ".venv", place, symlinks=True, ignore=lambda _, names: {"lib"} & set(names))
    (place / "lib").symlink_to(libraries)
    yield place
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare repository with this checkout as its one commit on main; each test has a clone of it."""
    place = tmp_path_factory.mktemp("project")
    remote, first = place / "packages.git", place / "first"
    names = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=HERE,
                           capture_output=True, text=True, check=True).stdout.split("\0")  # fmt: skip
    for name in filter(None, names):
        (first / name).parent.mkdir(parents=True, exist_ok=True)
        if (HERE / name).is_file():
            shutil.copy(HERE / name, first / name, follow_symlinks=False)
    git(place, "init", "-q", "--bare", "--initial-branch=main", str(remote))
    git(first, "init", "-q", "--initial-branch=main")
    git(first, "add", ".")
    git(first, "commit", "-q", "-m", "the project")
    git(first, "push", "-q", str(remote), "main")
    return remote


@dataclass
class Platform:
    """A project on a platform, and the one job that it runs at a time."""

    place: Path
    engine: str
    secrets: dict[str, str]
    said: str = ""

    @property
    def remote(self) -> Path:
        return self.place / "team" / "packages.git"

    @property
    def checkout(self) -> Path:
        return self.place / "checkout"

    @property
    def repository(self) -> Path:
        return self.checkout / "repository" / "debian"

    @property
    def notes(self) -> list[str]:
        """Return the recorded arguments of apt and gh."""
        file = self.place / "notes"
        return file.read_text().splitlines() if file.exists() else []

    def new_checkout(self, branch: str = "main") -> None:
        """Make a new checkout of a branch of the project."""
        kept = self.place / "venv"
        if self.checkout.exists():
            (self.checkout / ".venv").unlink()
            shutil.rmtree(self.checkout)
        git(self.place, "clone", "-q", "--branch", branch, f"file://{self.remote}", "checkout")
        (self.checkout / ".venv").symlink_to(kept.resolve())

    def run(self, job: str, *, good: bool = True, ref: str = "main", steps: Sequence[str] = ()) -> str:
        """Run the scripts of a job, on GitHub optionally only those of some steps, and return their output."""
        pipeline = yaml.safe_load(pipelines.text(self.engine, RELEASES))
        base = {
            "PATH": f"{self.place / 'bin'}:{os.environ['PATH']}",
            "HOME": str(self.place / "home"),
            "TMPDIR": str(self.place / "tmp"),
            "NOTES": str(self.place / "notes"),
            "LC_ALL": "C.UTF-8",
        }
        if self.engine == "github":
            status, self.said = self._github(pipeline, job, base, ref, steps)
        else:
            status, self.said = self._gitlab(pipeline, job, base, ref)
        assert (status == 0) is good, self.said
        return self.said

    def _github(
        self, pipeline: Mapping[str, Any], name: str, base: dict[str, str], ref: str, steps: Sequence[str]
    ) -> tuple[int, str]:
        job, output = pipeline["jobs"][name], ""
        known = {
            "github.server_url": f"file://{self.place}",
            "github.repository": "team/packages",
            "github.token": TOKEN,
            "vars.PGPOOL_DEB_URL": "https://example.org/debian",
            "vars.PGPOOL_DEB_REPOSITORY_SYNC": SYNC,
            "github.event.repository.default_branch || 'main'": "main",
            "inputs.release": "",
            "vars.PGPOOL_DEB_MERGE": "",
            "secrets.PGPOOL_DEB_SYNC_SECRET": "",
            **{f"secrets.{one}": value for one, value in self.secrets.items()},
        }

        def filled(values: Mapping[str, str]) -> dict[str, str]:
            return {
                one: re.sub(r"\$\{\{ (.*?) \}\}", lambda match: known[match[1]], str(text))
                for one, text in values.items()
            }

        own = base | {"GITHUB_OUTPUT": str(self.place / "output"), "GITHUB_REF_NAME": ref} | filled(job.get("env", {}))
        for step in job["steps"]:
            if "run" in step and step["name"] in (steps or [step["name"]]):
                status, more = self._shell(["bash", "-e"], step["run"], own | filled(step.get("env", {})))
                output += more
                if status:
                    return status, output
        return 0, output

    def _gitlab(self, pipeline: Mapping[str, Any], name: str, base: dict[str, str], ref: str) -> tuple[int, str]:
        job = pipeline[name]
        own = (
            base
            | self.secrets
            | {
                "CI_SERVER_URL": f"file://{self.place}",
                "CI_PROJECT_PATH": "team/packages",
                "CI_DEFAULT_BRANCH": "main",
                "CI_PROJECT_DIR": str(self.checkout),
                "CI_COMMIT_BRANCH": ref,
                "PGPOOL_DEB_TOKEN": TOKEN,
                "PGPOOL_DEB_URL": "https://example.org/debian",
                "PGPOOL_DEB_REPOSITORY_SYNC": SYNC,
            }
        )
        for one, value in (pipeline["variables"] | job.get("variables", {})).items():
            own[one] = re.sub(r"\$(\w+)", lambda match: own[match[1]], value)
        return self._shell(["bash", "-eo", "pipefail"], "\n".join([*job.get("before_script", []), *job["script"]]), own)

    def _shell(self, shell: list[str], script: str, environment: dict[str, str]) -> tuple[int, str]:
        answer = subprocess.run(
            shell, input=script, cwd=self.checkout, env=environment, capture_output=True, text=True, check=False
        )
        return answer.returncode, answer.stdout + answer.stderr

    def branches(self) -> dict[str, str]:
        text = git(self.remote, "for-each-ref", "--format=%(refname:short) %(objectname)", "refs/heads")
        return dict(line.split() for line in text.splitlines())


ON_ONE = pytest.mark.parametrize("platform", ["github"], indirect=True)
"""The scripts are the same on both."""


@pytest.fixture(params=list(pipelines.ENGINES))
def platform(
    request: pytest.FixtureRequest, tmp_path: Path, environment: Path, origin: Path, key: str
) -> Iterator[Platform]:
    made = Platform(tmp_path, request.param, {KEY: key})
    for name in ("bin", "home", "tmp", "team"):
        (tmp_path / name).mkdir()
    for name in ("apt-get", "gh"):
        (tmp_path / "bin" / name).write_text(NOTE)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "venv").symlink_to(environment)
    git(tmp_path, "clone", "-q", "--bare", str(origin), str(made.remote))
    git(made.remote, "config", "receive.advertisePushOptions", "true")
    hook = made.remote / "hooks" / "pre-receive"
    hook.write_text(f'#!/bin/sh\nenv | sed -n "s/^GIT_PUSH_OPTION_[0-9]*=/push option /p" >>{tmp_path / "notes"}\n')
    hook.chmod(0o755)
    made.new_checkout()
    yield made
    if (made.checkout / ".venv").is_symlink():
        (made.checkout / ".venv").unlink()


def cells(platform: Platform, upstream: str = "4.7.2", revision: int = 50, releases: Sequence[str] = TWO) -> None:
    """Pass on the results of the cells of these releases."""
    for release in map(TABLE.named, releases):
        run_of(platform.checkout / "cells" / release.name, release.name, f"{upstream}-{revision}+{release.suffix}")


def published(platform: Platform) -> dict[str, set[str]]:
    """Return the versions in each suite on the project's branch."""
    place = platform.place / "looked-at"
    shutil.rmtree(place, ignore_errors=True)
    git(platform.place, "clone", "-q", "--branch", BRANCH, f"file://{platform.remote}", str(place))
    lines: list[str] = []
    assert check.run(str(place / "debian"), lines.append, install=False) is ExitStatus.GOOD, lines
    state = Repository.open(place / "debian").state
    return {
        name: {one.version for one in suites.read(state, name, release).packages if one.package == "pgpool2"}
        for name, release in suites.named(state).items()
    }


def fingerprint_of(repository: Path) -> str:
    """Return the fingerprint of the key that clients trust."""
    keyring_file = next((repository / "keyring").glob("*.gpg"))
    words = ["gpg", "--batch", "--with-colons", "--show-keys", str(keyring_file)]
    text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return next(line.split(":")[9] for line in text.splitlines() if line.startswith("fpr:"))


def versions(revision: int = 50) -> dict[str, set[str]]:
    return {name: {f"4.7.2-{revision}+{TABLE.named(name).suffix}"} for name in TWO}


def test_proved_cells_are_published_and_promoted_without_the_key_on_disk(platform: Platform, key: str) -> None:
    cells(platform)
    platform.run("publish")
    assert published(platform) == {f"{name}-testing": those for name, those in versions().items()}
    assert "InRelease" in str(list(platform.repository.rglob("*")))
    assert "pool" in (platform.checkout / "synchronised").read_text()
    platform.new_checkout()
    platform.run("promote")
    stable = published(platform)
    assert {name: stable[name] for name in TWO} == versions()

    needle = key.splitlines()[4].encode()
    there = [path for path in platform.place.rglob("*") if path.is_file() and not path.is_symlink()]
    assert [path for path in there if needle in path.read_bytes() or TOKEN.encode() in path.read_bytes()] == []
    every = subprocess.run(
        ["git", "cat-file", "--batch-all-objects", "--batch"], cwd=platform.remote, capture_output=True, check=True
    ).stdout
    assert needle not in every
    assert b"pgpool2" in every
    assert [path.name for path in there if path.parent.name == "private-keys-v1.d"] == []
    fingerprint = bytes.fromhex(fingerprint_of(platform.repository))
    homes = Path("/dev/shm").glob("pgpool-deb-key-*/pubring.kbx")  # noqa: S108 - others may be of other runs
    assert [home for home in homes if fingerprint in home.read_bytes()] == []
    assert needle.decode() not in platform.said


@ON_ONE
def test_a_second_publish_adds_only_new_packages(platform: Platform) -> None:
    cells(platform)
    platform.run("publish")
    before = platform.branches()[BRANCH]
    platform.new_checkout()
    cells(platform)
    assert "nothing was published" in platform.run("publish")
    assert platform.branches()[BRANCH] == before
    platform.new_checkout()
    cells(platform, revision=51)
    platform.run("publish")
    assert published(platform) == {f"{name}-testing": those | versions()[name] for name, those in versions(51).items()}


@ON_ONE
def test_a_push_that_does_not_follow_the_last_is_refused(platform: Platform) -> None:
    """Another job pushes between this one's fetch of the branch and its push."""
    cells(platform)
    platform.run("publish", steps=("gather", "repository", "sign"))
    git(platform.remote, "branch", BRANCH, "main")
    before = platform.branches()
    assert "rejected" in platform.run("publish", steps=("store",), good=False)
    assert platform.branches() == before


@ON_ONE
def test_no_repository_starts_if_the_project_does_not_answer(platform: Platform) -> None:
    cells(platform)
    platform.remote.rename(platform.place / "away")
    platform.run("publish", good=False)
    assert not (platform.checkout / "repository").exists()


def test_without_a_key_nothing_is_published(platform: Platform) -> None:
    platform.secrets[KEY] = ""
    cells(platform)
    assert f"${KEY} is not set" in platform.run("publish", good=False)
    assert BRANCH not in platform.branches()


@ON_ONE
def test_a_failed_cell_is_not_published(platform: Platform) -> None:
    cells(platform)
    run_of(platform.checkout / "cells" / TWO[0], TWO[0], f"4.7.2-50+{TABLE.named(TWO[0]).suffix}", StageState.FAILED)
    platform.run("publish")
    assert list(published(platform)) == [f"{TWO[1]}-testing"]


OPENS = """#!/bin/sh
# The state in which `./invoke update --open` leaves the checkout.
git switch --quiet --create update/4.7.3
sed -i '1i default = "4.7.3"\\n' packaging/sources.toml
git commit --quiet --all --message 'Pin pgpool-II 4.7.3'
"""


def test_a_change_is_opened_proved_and_merged(platform: Platform) -> None:
    real = (platform.checkout / "invoke").read_bytes()
    main = platform.branches()["main"]
    (platform.checkout / "invoke").write_text(OPENS)
    git(platform.checkout, "update-index", "--assume-unchanged", "invoke")
    platform.run("update")
    bundle = (platform.checkout / CHANGE).read_bytes()
    platform.new_checkout()
    (platform.checkout / "dist").mkdir()
    (platform.checkout / CHANGE).write_bytes(bundle)
    platform.run("open")
    assert set(platform.branches()) == {"main", "update/4.7.3"}

    platform.new_checkout("update/4.7.3")
    assert (platform.checkout / "invoke").read_bytes() == real
    cells(platform, "4.7.3", releases=RELEASES)
    platform.run("proved", ref="update/4.7.3")
    platform.new_checkout("update/4.7.3")
    pins = Pins.load(Project(platform.checkout).sources)
    assert (pins.default, bool(pins.named("4.7.3").proved)) == ("", True)
    assert git(platform.checkout, "rev-list", "--count", f"{main}..HEAD") == "2"
    notes = [line for line in platform.notes if not line.startswith("apt-get")]
    if platform.engine == "github":
        head = platform.branches()["update/4.7.3"]
        assert notes == [
            "gh pr create --base main --head update/4.7.3 --title Pin pgpool-II 4.7.3 --body ",
            "gh workflow run packages.yml --ref update/4.7.3",
            f"gh pr merge --merge --delete-branch --match-head-commit {head} update/4.7.3",
            "gh workflow run packages.yml --ref main",
        ]
    else:
        options = ["create", "target=main", "remove_source_branch", "merge_when_pipeline_succeeds"]
        assert sorted(notes) == sorted(f"push option merge_request.{one}" for one in options)


def test_a_version_with_a_failed_cell_is_not_marked_proved(platform: Platform) -> None:
    (platform.checkout / "invoke").write_text(OPENS)
    git(platform.checkout, "update-index", "--assume-unchanged", "invoke")
    platform.run("update")
    git(platform.checkout, "push", "-q", str(platform.remote), "update/4.7.3")
    before = platform.branches()
    platform.new_checkout("update/4.7.3")
    cells(platform, "4.7.3", releases=RELEASES[1:])
    assert f"did not test it on {RELEASES[0]}" in platform.run("proved", good=False, ref="update/4.7.3")
    assert platform.branches() == before
    assert not [line for line in platform.notes if "merge" in line]
