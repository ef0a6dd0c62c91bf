"""A repository, dist/ or key that somebody meddled with: one line and a hint, and nothing else has changed."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.serving import web
from tests.unit.repository.conftest import FIRST, V1, V2, Publisher
from tests.unit.repository.test_publish import proved

from pgpool_deb.download import sha256_of
from pgpool_deb.errors import ExitStatus, MachineError, ToolkitError, UsageError
from pgpool_deb.project import Project
from pgpool_deb.repository import check, keyring, promote, prune, publish
from pgpool_deb.small_packages import deb, upload

Harm = Callable[[Path], None]
"""Does something to a repository, or to dist/<release>."""
OUTSIDE = "outside"
"""A folder beside the repository, which nobody may touch."""


def everything(folder: Path) -> dict[str, tuple[int, bytes]]:
    """All below a folder with its type, and what it holds or leads to; nothing is followed, and pipes are not read."""
    found = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        data = str(path.readlink()).encode() if stat.S_ISLNK(mode) else path.read_bytes() if stat.S_ISREG(mode) else b""
        if path.name != ".lock" or not stat.S_ISREG(mode):
            found[str(path.relative_to(folder))] = (stat.S_IFMT(mode), data)
    return found


def moved_out(path: Path) -> None:
    """Put a part of the repository elsewhere, and a link in its place."""
    repo = next(parent for parent in path.parents if parent.name == "repo")
    target = repo.with_name(OUTSIDE) / path.name
    path.rename(target)
    path.symlink_to(target)


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def state(repo: Path) -> Path:
    return (repo / "current").resolve()


# -- the repository ----------------------------------------------------------------------------------------------------


def mark_is_a_link(repo: Path) -> None:
    moved_out(repo / "repository.json")


def mark_is_a_pipe(repo: Path) -> None:
    as_pipe(repo / "repository.json")


def mark_is_a_list(repo: Path) -> None:
    (repo / "repository.json").write_text("[" * 100_000)


def mark_is_a_folder(repo: Path) -> None:
    (repo / "repository.json").unlink()
    (repo / "repository.json").mkdir()


def lock_is_a_link(repo: Path) -> None:
    (repo / ".lock").unlink(missing_ok=True)
    (repo / ".lock").symlink_to(repo.with_name(OUTSIDE) / "letter")


def lock_is_a_pipe(repo: Path) -> None:
    (repo / ".lock").unlink(missing_ok=True)
    os.mkfifo(repo / ".lock")


def pool_is_a_link(repo: Path) -> None:
    moved_out(repo / "pool")


def pool_folder_is_a_link(repo: Path) -> None:
    moved_out(repo / "pool/main/p/pgpool2")


def keyring_folder_is_a_link(repo: Path) -> None:
    moved_out(repo / "pool/main/p" / keyring.NAME)


def pool_file_is_a_pipe(repo: Path) -> None:
    os.mkfifo(repo / "pool/main/p/pgpool2" / f"pgpool2_{V2}_amd64.deb")


def pool_file_is_a_folder(repo: Path) -> None:
    (repo / "pool/main/p/pgpool2" / f"pgpool2_{V2}_amd64.deb").mkdir()


def snapshots_are_a_link(repo: Path) -> None:
    moved_out(repo / "snapshot")


def state_is_a_link(repo: Path) -> None:
    moved_out(state(repo))


def a_later_state_is_a_link(repo: Path) -> None:
    (repo / "snapshot/20990101T000000Z").symlink_to(repo.with_name(OUTSIDE))


def pointer_leads_up(repo: Path) -> None:
    (repo / "current").unlink()
    (repo / "current").symlink_to(f"snapshot/../../{OUTSIDE}")


def pointer_is_missing(repo: Path) -> None:
    (repo / "current").unlink()


def pointer_leads_nowhere(repo: Path) -> None:
    (repo / "current").unlink()
    (repo / "current").symlink_to("snapshot/19700101T000000Z")


def pointer_is_a_copy(repo: Path) -> None:
    place = state(repo)
    (repo / "current").unlink()
    shutil.copytree(place, repo / "current", symlinks=True)


def dists_is_a_copy(repo: Path) -> None:
    (repo / "dists").unlink()
    shutil.copytree(state(repo) / "dists", repo / "dists")


def dists_leads_elsewhere(repo: Path) -> None:
    (repo / "dists").unlink()
    (repo / "dists").symlink_to(repo.with_name(OUTSIDE))


def suite_is_a_link(repo: Path) -> None:
    moved_out(state(repo) / "dists/trixie-testing")


def release_is_a_pipe(repo: Path) -> None:
    as_pipe(state(repo) / "dists/trixie-testing/Release")


def release_is_missing(repo: Path) -> None:
    (state(repo) / "dists/trixie-testing/Release").unlink()


def release_is_no_text(repo: Path) -> None:
    (state(repo) / "dists/trixie-testing/Release").write_bytes(b"\xff\xfe")


def inrelease_is_a_link(repo: Path) -> None:
    moved_out(state(repo) / "dists/trixie-testing/InRelease")


def summary_is_missing(repo: Path) -> None:
    (state(repo) / "dists/trixie-testing/suite.json").unlink()


def summary_is_a_pipe(repo: Path) -> None:
    as_pipe(state(repo) / "dists/trixie-testing/suite.json")


def summary_is_deep(repo: Path) -> None:
    (state(repo) / "dists/trixie-testing/suite.json").write_text("[" * 100_000)


def index_is_a_pipe(repo: Path) -> None:
    as_pipe(state(repo) / "dists/trixie-testing/main/binary-amd64/Packages.gz")


def index_is_a_link(repo: Path) -> None:
    moved_out(state(repo) / "dists/trixie-testing/main/Contents-amd64.gz")


REPOSITORY: dict[Harm, str] = {
    mark_is_a_link: "repository.json leads out of the repository",
    mark_is_a_pipe: "repository.json is no regular file",
    mark_is_a_list: "repository.json is damaged",
    mark_is_a_folder: "repository.json is no regular file",
    lock_is_a_link: ".lock is no regular file",
    lock_is_a_pipe: ".lock is no regular file",
    pool_is_a_link: "pool is a symbolic link",
    pool_folder_is_a_link: "is a symbolic link, or below one",
    pool_file_is_a_pipe: "_amd64.deb is no regular file",
    pool_file_is_a_folder: "_amd64.deb is no regular file",
    snapshots_are_a_link: "snapshot is a symbolic link",
    state_is_a_link: "Z is a symbolic link",
    a_later_state_is_a_link: "snapshot/20990101T000000Z is a symbolic link",
    pointer_leads_up: "current leads out of the repository",
    pointer_is_missing: "leads nowhere",
    pointer_leads_nowhere: "leads nowhere",
    pointer_is_a_copy: "current is no symbolic link to a state",
    dists_is_a_copy: "dists is no symbolic link to current/dists",
    dists_leads_elsewhere: "dists leads elsewhere",
    suite_is_a_link: "leads out of the repository",
    release_is_a_pipe: "Release is no regular file",
    release_is_missing: "Release is missing",
    release_is_no_text: "InRelease is not signed by this key",
    inrelease_is_a_link: "InRelease leads out of the repository",
    summary_is_missing: "suite.json is missing",
    summary_is_a_pipe: "suite.json is no regular file",
    summary_is_deep: "suite.json is damaged",
    index_is_a_pipe: "Packages.gz is no regular file",
    index_is_a_link: "Contents-amd64.gz leads out of the repository",
}
ONLY_PUBLISH = {pool_folder_is_a_link, pool_file_is_a_pipe, pool_file_is_a_folder}
"""These are met where something is put into the pool."""


def refused(run: Callable[[], object], repo: Path, status: ExitStatus = ExitStatus.USAGE) -> str:
    """Return the line of an error that leaves the repository, and what is outside, as they were."""
    before = everything(repo.parent)
    with pytest.raises(ToolkitError) as raised:
        run()
    assert everything(repo.parent) == before
    lines = str(raised.value).splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("hint: ")
    assert raised.value.exit_status is status
    return lines[0]


@pytest.fixture
def repo(published: Publisher, checkout: Project, tmp_path: Path) -> Path:
    """A repository whose packages are proved, with a newer version in dist/."""
    published()
    proved(checkout)
    published(unproved=False)
    upload(checkout.dist / "trixie", V2)
    (tmp_path / OUTSIDE).mkdir()
    (tmp_path / OUTSIDE / "letter").write_text("dear")
    return tmp_path / "repo"


@pytest.mark.parametrize("harm", REPOSITORY, ids=lambda harm: harm.__name__)
def test_publish_promote_and_prune_refuse_what_was_tampered_with(
    repo: Path, published: Publisher, checkout: Project, monkeypatch: pytest.MonkeyPatch, harm: Callable[[Path], None]
) -> None:
    harm(repo)
    commands: list[Callable[[], object]] = [published]
    if harm not in ONLY_PUBLISH:
        monkeypatch.setenv("SOURCE_DATE_EPOCH", str(FIRST + 900))
        commands += [
            lambda: published(renew=True),
            lambda: promote.run(checkout, promote.Request(repo, install=False), print),
        ]
    for command in commands:
        assert REPOSITORY[harm] in refused(command, repo)


def test_a_keyring_package_is_not_put_through_a_link(repo: Path, published: Publisher) -> None:
    keyring_folder_is_a_link(repo)
    assert "is a symbolic link, or below one" in refused(
        lambda: published(renew=True, url="https://new.example.org"), repo
    )


@pytest.mark.parametrize("name", ["lost+found", "a\nb", "notes.txt"])
def test_other_things_among_the_states_are_left_alone(repo: Path, published: Publisher, name: str) -> None:
    (repo / "snapshot" / name).mkdir()
    (repo / "snapshot" / name / "letter").write_text("dear")
    published()
    prune.run(prune.Request(repo, older=1, yes=True), print)
    assert (repo / "snapshot" / name / "letter").read_text() == "dear"


def test_a_link_that_looks_like_a_half_file_is_removed_and_not_followed(repo: Path, published: Publisher) -> None:
    for folder in (repo, repo / "pool/main"):
        (folder / ".partial-1").symlink_to(repo.with_name(OUTSIDE))
    published()
    assert not (repo / ".partial-1").is_symlink()
    assert (repo.with_name(OUTSIDE) / "letter").read_text() == "dear"


@pytest.mark.parametrize("what", ["a file", "nothing", "a folder", "a loop"])
def test_what_is_no_repository_is_told_so(checkout: Project, tmp_path: Path, what: str) -> None:
    place = tmp_path / "place"
    if what == "a file":
        place.write_text("dear")
    elif what == "a folder":
        place.mkdir()
    elif what == "a loop":
        place.symlink_to(place)
    for run in (
        lambda: publish.run(checkout, publish.Request(place, renew=True, install=False), print),
        lambda: promote.run(checkout, promote.Request(place, install=False), print),
        lambda: prune.run(prune.Request(place), print),
        lambda: check.run(str(place), print, install=False),
    ):
        line = refused(run, place)
        assert "is no repository of ours" in line or "has no keyring/" in line or "is no regular file" in line


# -- check-repository --------------------------------------------------------------------------------------------------

CHECKED: dict[Harm, str] = {
    suite_is_a_link: "trixie-testing: InRelease leads out of the repository",
    release_is_a_pipe: "trixie-testing: Release says something else than InRelease",
    inrelease_is_a_link: "trixie-testing: InRelease leads out of the repository",
    index_is_a_pipe: "dists/trixie-testing/main/binary-amd64/Packages.gz is no regular file",
    index_is_a_link: "dists/trixie-testing/main/Contents-amd64.gz leads out of the repository",
    summary_is_a_pipe: "dists/trixie-testing/suite.json is no regular file",
    summary_is_deep: "dists/trixie-testing/suite.json has other bytes than its index says",
}


def faults(where: Path | str) -> list[str]:
    lines: list[str] = []
    assert check.run(str(where), lines.append, install=False) is ExitStatus.FAILED, lines
    assert all(line.isprintable() for line in lines)
    return [line.removeprefix("fault: ") for line in lines if line.startswith("fault: ")]


@pytest.mark.parametrize("harm", CHECKED, ids=lambda harm: harm.__name__)
def test_check_repository_names_what_was_tampered_with(repo: Path, harm: Callable[[Path], None]) -> None:
    harm(repo)
    before = everything(repo.parent)
    assert faults(repo) == [CHECKED[harm]]
    assert everything(repo.parent) == before


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: path.symlink_to("/etc/hostname"), "leads out of the repository"),
        (os.mkfifo, "is no regular file"),
        (lambda path: os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5)), "is no regular file"),
        (lambda path: path.symlink_to(path.name), "is no regular file"),
        (Path.mkdir, "is no regular file"),
    ],
    ids=["link", "pipe", "device", "loop", "folder"],
)
def test_what_is_no_file_of_the_pool_or_by_its_hash_is_a_fault(
    repo: Path, make: Callable[[Path], None], why: str
) -> None:
    """/dev/zero never ends, and a pipe never begins."""
    packages = state(repo) / "dists/trixie-testing/main/binary-amd64/by-hash/SHA256"
    current = [path for path in packages.iterdir() if path.samefile(packages.parents[1] / "Packages.gz")]
    found = repo / "pool/main/p/pgpool2" / f"pgpool2_{V1}_amd64.deb"
    for path in (current[0], found):
        path.unlink()
        make(path)
    assert faults(repo)[0] == f"{current[0].relative_to(state(repo))} {why}"
    current[0].rmdir() if current[0].is_dir() else current[0].unlink()
    os.link(packages.parents[1] / "Packages.gz", current[0])
    assert faults(repo) == [f"{found.relative_to(repo)} {why}"]


def test_a_suite_whose_name_is_two_lines_is_one_line(repo: Path) -> None:
    (state(repo) / "dists/a\nb\udcff").mkdir()
    assert faults(repo) == ["a\\nb\\udcff: InRelease is missing"]


@pytest.mark.parametrize("text", ["<html><body>Welcome</body></html>", "", "../../etc"])
def test_a_server_that_answers_with_a_page_for_everything_is_no_repository(repo: Path, text: str) -> None:
    (state(repo) / "keyring/suites").write_text(text)
    with web(repo) as url, pytest.raises(UsageError, match=r"keyring/suites names no suites\nhint: "):
        check.run(url, print, install=False)


# -- who may read ------------------------------------------------------------------------------------------------------

AS_NOBODY = """
import _strptime, os, sys  # Python's own library may be another user's, too
from pathlib import Path
sys.path.insert(0, {packaging!r})
from pgpool_deb.download import sha256_of
from pgpool_deb.errors import ToolkitError
from pgpool_deb.project import Project
from pgpool_deb.repository import check, publish, promote, prune
checkout, repo, what = sys.argv[1:]
os.setgid(65534); os.setuid(65534)
try:
    if what == "check":
        check.run(repo, print, install=False)
    elif what == "publish":
        publish.run(Project(Path(checkout)), publish.Request(Path(repo), unproved=True, install=False), print)
    elif what == "promote":
        promote.run(Project(Path(checkout)), promote.Request(Path(repo), install=False), print)
    else:
        prune.run(prune.Request(Path(repo)), print)
except ToolkitError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_status)
"""


def as_nobody(checkout: Project, repo: Path, what: str) -> tuple[int, list[str]]:
    """Run a command as a user who owns nothing; returns its status and what it says of an error."""
    for folder in (repo, *repo.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    program = AS_NOBODY.format(packaging=str(Path(__file__).parents[3] / "packaging"))
    command = [sys.executable, "-B", "-c", program, str(checkout.path), str(repo), what]
    environment = {**os.environ, "HOME": "/nonexistent", "XDG_DATA_HOME": "/nonexistent"}
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return answer.returncode, answer.stderr.splitlines()


@pytest.mark.skipif(os.geteuid() != 0, reason="to be another user takes root")
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
def test_what_may_not_be_read_is_the_machines_fault(checkout: Project, repo: Path, path: str, what: str) -> None:
    (repo / path).resolve().chmod(0)
    before = everything(repo)
    status, lines = as_nobody(checkout, repo, what)
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
    """Its .changes says so."""
    resigned(folder, b"noise\n")


def deb_is_another(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    resigned(folder, deb(folder / "elsewhere", "nginx", "1.0").read_bytes())
    shutil.rmtree(folder / "elsewhere")


def resigned(folder: Path, data: bytes) -> None:
    """Put other bytes in place of a .deb, with the right hashes in .buildinfo and .changes."""
    path = folder / f"pgpool2_{V2}_amd64.deb"
    path.write_bytes(data)
    told(path, path.with_suffix(".buildinfo"))
    told(path, path.with_suffix(".changes"))
    told(path.with_suffix(".buildinfo"), path.with_suffix(".changes"))


def told(path: Path, record: Path) -> None:
    """Have a record say what a file is."""
    row = f" {sha256_of(path)} {path.stat().st_size} {path.name}"
    lines = [row if line.endswith(f" {path.name}") else line for line in record.read_text().splitlines()]
    record.write_text("\n".join([*lines, ""]))


def two_that_differ(folder: Path) -> None:
    """Builds of two architectures, of two sources of one version."""
    upload(folder, V2, text="other", machine="arm64", binaries=("libpgpool-dev",))


def report_is_a_pipe(folder: Path) -> None:
    (folder.parent / "report/report.json").unlink()
    os.mkfifo(folder.parent / "report/report.json")


def report_is_a_list(folder: Path) -> None:
    (folder.parent / "report/report.json").write_text(json.dumps([1]))


DIST: dict[Harm, str] = {
    changes_is_a_pipe: "pgpool2_1_amd64.changes is no regular file",
    changes_is_a_link: "_amd64.changes is no regular file",
    changes_is_noise: "noise.changes cannot be read as a .changes",
    changes_has_two_lines: "a\\nb\\udcff.changes cannot be read as a .changes",
    deb_is_a_pipe: "_amd64.deb is missing or not whole",
    deb_is_noise: "pgpool2_4.7.2-51+deb13+1_amd64.deb",
    deb_is_another: "pgpool2_4.7.2-51+deb13+1_amd64.deb holds another package, nginx_1.0_amd64",
    two_that_differ: "trixie: two .changes differ about pgpool2_4.7.2-51+deb13+1.",
    report_is_a_pipe: "there is no report of a matrix",
    report_is_a_list: "there is no report of a matrix",
}


@pytest.mark.parametrize("harm", DIST, ids=lambda harm: harm.__name__)
def test_a_dist_that_was_tampered_with_is_refused(
    repo: Path, published: Publisher, checkout: Project, harm: Callable[[Path], None]
) -> None:
    harm(checkout.dist / "trixie")
    unproved = harm not in (report_is_a_pipe, report_is_a_list)
    assert DIST[harm] in refused(lambda: published(unproved=unproved), repo)


# -- keys --------------------------------------------------------------------------------------------------------------


def test_what_is_no_key_is_told_so(repo: Path, published: Publisher, tmp_path: Path) -> None:
    noise, empty, public = (tmp_path / name for name in ("noise", "empty", "public"))
    noise.write_bytes(b"\xff\x00" * 1000)
    empty.touch()
    shutil.copyfile(repo / "keyring" / f"{keyring.NAME}.gpg", public)
    os.mkfifo(tmp_path / "pipe")
    for key, said in (
        (noise, "noise holds no key"),
        (empty, "empty holds no key"),
        (public, "public holds 0 secret keys"),
        (tmp_path / "pipe", "is neither a key's fingerprint nor a file"),
        (tmp_path, "is neither a key's fingerprint nor a file"),
        ("-----BEGIN PGP PRIVATE KEY BLOCK-----\n" + "x" * 5000, "is neither a key's fingerprint nor a file"),
        ("", "is neither a key's fingerprint nor a file"),
    ):
        line = refused(lambda key=key: published(key=str(key)), repo)  # type: ignore[misc]
        assert said in line
        assert len(line) < 300


# -- a full disk -------------------------------------------------------------------------------------------------------


FULL = """
import sys
from pathlib import Path
sys.path.insert(0, {packaging!r})
from pgpool_deb.download import sha256_of
from pgpool_deb.errors import ToolkitError
from pgpool_deb.project import Project
from pgpool_deb.repository import publish
checkout, repo, options = sys.argv[1:]
try:
    publish.run(Project(Path(checkout)), publish.Request(Path(repo), install=False, **eval(options)), print)
except ToolkitError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_status)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a file system of its own takes root")
@pytest.mark.parametrize("left", [0, 4096, 12288, 40960])
@pytest.mark.parametrize(
    "options", [{"unproved": True}, {"renew": True, "url": "https://new.example.org"}], ids=["new", "renewal"]
)
def test_on_a_full_disk_nothing_changes(
    repo: Path, checkout: Project, monkeypatch: pytest.MonkeyPatch, left: int, options: dict[str, object]
) -> None:
    """However little room there is: it ends in a line, a hint, and the status of a machine's fault."""
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
    assert lines[1] == "hint: is there room? The repository is as it was"


def test_the_machine_says_which_server_broke_off(repo: Path) -> None:
    """It promises more than it sends."""
    import http.server  # noqa: PLC0415
    import threading  # noqa: PLC0415

    class Half(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"half")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

    server = http.server.HTTPServer(("127.0.0.1", 0), Half)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(MachineError, match=r"keyring.gpg: .*\nhint: is the web server up\?"):
            check.run(f"http://127.0.0.1:{server.server_address[1]}", print, install=False)
    finally:
        server.shutdown()
        server.server_close()
