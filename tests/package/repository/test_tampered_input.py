"""Missing permissions, a tampered dist/ or key, a full disk: one line, a hint, and no change."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.repository.conftest import V1, V2, Publisher
from tests.unit.repository.tampering import Harm, as_pipe, everything, refused

from pgpool_deb.ground.errors import ExitStatus
from pgpool_deb.ground.project import Project
from pgpool_deb.repository import keyring
from pgpool_deb.runs.small_packages import deb, upload
from pgpool_deb.upstream.download import sha256_of

# -- permissions -------------------------------------------------------------------------------------------------------

AS_NOBODY = """
import _strptime, os, sys  # Python's own library may be another user's, too
from pathlib import Path
sys.path.insert(0, {packaging!r})
from pgpool_deb.upstream.download import sha256_of
from pgpool_deb.ground.errors import ToolkitError
from pgpool_deb.ground.project import Project
from pgpool_deb.repository import check, publish, promote, prune
checkout, repo, what = sys.argv[1:]
os.setgid(65534); os.setuid(65534)
try:
    if what == "check":
        check.run(repo, print, install=False)
    elif what == "publish":
        publish.run(Project(Path(checkout)), publish.PublishRequest(Path(repo), unproved=True, install=False), print)
    elif what == "promote":
        promote.run(Project(Path(checkout)), promote.PromoteRequest(Path(repo), install=False), print)
    else:
        prune.run(prune.PruneRequest(Path(repo)), print)
except ToolkitError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_status)
"""


def as_nobody(checkout: Path, repo: Path, what: str) -> tuple[int, list[str]]:
    """Run a command as an unprivileged user; returns its status and the lines of its standard error."""
    program = AS_NOBODY.format(packaging=str(Path(__file__).parents[3] / "packaging"))
    command = [sys.executable, "-B", "-c", program, str(checkout), str(repo), what]
    environment = {**os.environ, "HOME": "/nonexistent", "XDG_DATA_HOME": "/nonexistent"}
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return answer.returncode, answer.stderr.splitlines()


@pytest.fixture
def public(checkout: Project, repo: Path) -> Iterator[Path]:
    """A folder that every user may enter, unlike pytest's, with copies of the checkout and the repository."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        folder.chmod(0o755)
        shutil.copytree(checkout.path, folder / "checkout")
        shutil.copytree(repo, folder / "repo", symlinks=True)
        yield folder


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a command as another user")
@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("repository.json", "publish"),
        ("repository.json", "promote"),
        ("repository.json", "prune"),
        (".lock", "publish"),
        ("snapshot", "publish"),
        ("keyring/pgpool-deb-archive-keyring.gpg", "check"),
        ("dists", "check"),
        ("dists/trixie-testing/InRelease", "check"),
        (f"pool/main/p/pgpool2/pgpool2_{V1}_amd64.deb", "check"),
        (f"pool/main/p/pgpool2/pgpool2_{V1}_amd64.cdx.json", "check"),
    ],
)
def test_an_unreadable_file_is_a_machine_error(public: Path, path: str, what: str) -> None:
    repo = public / "repo"
    (repo / path).resolve().chmod(0)
    before = everything(repo)
    status, lines = as_nobody(public / "checkout", repo, what)
    assert status == ExitStatus.ENVIRONMENT, "\n".join(lines)
    assert len(lines) == 2, lines
    assert lines[0].endswith(f"{path}: Permission denied"), lines
    assert lines[1].startswith("hint: ")
    assert everything(repo) == before


# -- dist/ -------------------------------------------------------------------------------------------------------------


def changes_is_a_pipe(folder: Path) -> None:
    os.mkfifo(folder / "pgpool2_1_amd64.changes")


def changes_is_a_link(folder: Path) -> None:
    path = folder / f"pgpool2_{V2}_amd64.changes"
    path.rename(folder.parent / path.name)
    path.symlink_to(folder.parent / path.name)


def changes_is_noise(folder: Path) -> None:
    (folder / "noise.changes").write_bytes(b"\xff\x00" * 1000)


def changes_has_two_lines(folder: Path) -> None:
    (folder / "a\nb\udcff.changes").write_text("")


def deb_is_a_pipe(folder: Path) -> None:
    as_pipe(folder / f"pgpool2_{V2}_amd64.deb")


def deb_is_noise(folder: Path) -> None:
    """Its .changes has the matching SHA-256."""
    resigned(folder, b"noise\n")


def deb_is_another(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    resigned(folder, deb(folder / "elsewhere", "nginx", "1.0").read_bytes())
    shutil.rmtree(folder / "elsewhere")


def resigned(folder: Path, data: bytes) -> None:
    """Replace the bytes of a .deb, and update its hashes in .buildinfo and .changes."""
    path = folder / f"pgpool2_{V2}_amd64.deb"
    path.write_bytes(data)
    told(path, path.with_suffix(".buildinfo"))
    told(path, path.with_suffix(".changes"))
    told(path.with_suffix(".buildinfo"), path.with_suffix(".changes"))


def told(path: Path, record: Path) -> None:
    """Update the SHA-256 and size of a file in a record."""
    row = f" {sha256_of(path)} {path.stat().st_size} {path.name}"
    lines = [row if line.endswith(f" {path.name}") else line for line in record.read_text().splitlines()]
    record.write_text("\n".join([*lines, ""]))


def two_that_differ(folder: Path) -> None:
    """Add a build for another architecture, from different source files of the same version."""
    upload(folder, V2, text="other", machine="arm64", binaries=("libpgpool-dev",))


def report_is_a_pipe(folder: Path) -> None:
    (folder.parent / "report/report.json").unlink()
    os.mkfifo(folder.parent / "report/report.json")


def report_is_a_list(folder: Path) -> None:
    (folder.parent / "report/report.json").write_text(json.dumps([1]))


DIST: dict[Harm, str] = {
    changes_is_a_pipe: "pgpool2_1_amd64.changes is not a regular file",
    changes_is_a_link: "_amd64.changes is not a regular file",
    changes_is_noise: "noise.changes is not a valid .changes file",
    changes_has_two_lines: "a\\nb\\udcff.changes is not a valid .changes file",
    deb_is_a_pipe: "_amd64.deb is missing or has the wrong size",
    deb_is_noise: "pgpool2_4.7.2-51+deb13+1_amd64.deb",
    deb_is_another: "pgpool2_4.7.2-51+deb13+1_amd64.deb contains the package nginx_1.0_amd64",
    two_that_differ: "trixie: two .changes files have different checksums of pgpool2_4.7.2-51+deb13+1.",
    report_is_a_pipe: "no matrix report was found",
    report_is_a_list: "no matrix report was found",
}


@pytest.mark.parametrize("harm", DIST, ids=lambda harm: harm.__name__)
def test_a_tampered_dist_is_refused(repo: Path, published: Publisher, checkout: Project, harm: Harm) -> None:
    harm(checkout.dist / "trixie")
    unproved = harm not in (report_is_a_pipe, report_is_a_list)
    assert DIST[harm] in refused(lambda: published(unproved=unproved), repo)


# -- keys --------------------------------------------------------------------------------------------------------------


def test_an_argument_that_is_not_a_key_is_refused(repo: Path, published: Publisher, tmp_path: Path) -> None:
    noise, empty, public = (tmp_path / name for name in ("noise", "empty", "public"))
    noise.write_bytes(b"\xff\x00" * 1000)
    empty.touch()
    shutil.copyfile(repo / "keyring" / f"{keyring.NAME}.gpg", public)
    os.mkfifo(tmp_path / "pipe")
    for key, expected in (
        (noise, "noise contains no key"),
        (empty, "empty contains no key"),
        (public, "public contains 0 secret keys"),
        (tmp_path / "pipe", "is neither a fingerprint nor a file"),
        (tmp_path, "is neither a fingerprint nor a file"),
        ("-----BEGIN PGP PRIVATE KEY BLOCK-----\n" + "x" * 5000, "is neither a fingerprint nor a file"),
        ("", "is neither a fingerprint nor a file"),
    ):
        line = refused(lambda key=key: published(key=str(key)), repo)  # type: ignore[misc]
        assert expected in line
        assert len(line) < 300


# -- a full disk -------------------------------------------------------------------------------------------------------


FULL = """
import sys
from pathlib import Path
sys.path.insert(0, {packaging!r})
from pgpool_deb.upstream.download import sha256_of
from pgpool_deb.ground.errors import ToolkitError
from pgpool_deb.ground.project import Project
from pgpool_deb.repository import publish
checkout, repo, options = sys.argv[1:]
try:
    publish.run(Project(Path(checkout)), publish.PublishRequest(Path(repo), install=False, **eval(options)), print)
except ToolkitError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_status)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system")
@pytest.mark.parametrize("left", [0, 4096, 12288, 40960])
@pytest.mark.parametrize(
    "options", [{"unproved": True}, {"renew": True, "url": "https://new.example.org"}], ids=["new", "renewal"]
)
def test_on_a_full_disk_nothing_changes(
    repo: Path, checkout: Project, monkeypatch: pytest.MonkeyPatch, left: int, options: dict[str, object]
) -> None:
    """With any amount of free space, it fails with one line, a hint, and the exit status of a machine error."""
    program = FULL.format(packaging=str(Path(__file__).parents[3] / "packaging"))
    (repo.parent / "disk").mkdir()
    script = """
    set -eu
    mount -t tmpfs -o size=4m tmpfs disk
    cp -a repo disk/repo
    dd if=/dev/zero of=disk/filler bs=4096 2>/dev/null || true
    truncate -s -"$3" disk/filler
    sums() { (cd disk && find . ! -name .lock -type f -exec sha256sum {} + ; find . -type l -o -type d) | sort; }
    sums >before
    "$1" -c "$2" "$4" disk/repo "$5" && exit 0 || echo "status $?"
    sums | diff before - && echo 'as it was'
    """
    words = [sys.executable, program, str(left), str(checkout.path), repr(options)]
    command = ["unshare", "--mount", "sh", "-c", script, "sh", *words]
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    answer = subprocess.run(command, cwd=repo.parent, capture_output=True, text=True, check=False)
    assert answer.stdout.splitlines()[-2:] == ["status 3", "as it was"], answer
    lines = answer.stderr.splitlines()
    assert len(lines) == 2, answer
    assert lines[0].endswith("No space left on device")
    assert lines[1] == "hint: check the free disk space; the repository is unchanged"
