"""Commands refuse a tampered repository with one line and a hint, and change nothing."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.serving import web
from tests.unit.repository.conftest import FIRST, V1, V2, Publisher
from tests.unit.repository.tampering import OUTSIDE, Harm, as_pipe, everything, moved_out, refused

from pgpool_deb.ground.errors import ExitStatus, MachineError, UsageError
from pgpool_deb.ground.project import Project
from pgpool_deb.repository import check, keyring, promote, prune, publish


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
    mark_is_a_link: "repository.json points outside the repository",
    mark_is_a_pipe: "repository.json is not a regular file",
    mark_is_a_list: "repository.json is damaged",
    mark_is_a_folder: "repository.json is not a regular file",
    lock_is_a_link: ".lock is not a regular file",
    lock_is_a_pipe: ".lock is not a regular file",
    pool_is_a_link: "pool is a symbolic link",
    pool_folder_is_a_link: "is a symbolic link, or below one",
    pool_file_is_a_pipe: "_amd64.deb is not a regular file",
    pool_file_is_a_folder: "_amd64.deb is not a regular file",
    snapshots_are_a_link: "snapshot is a symbolic link",
    state_is_a_link: "Z is a symbolic link",
    a_later_state_is_a_link: "snapshot/20990101T000000Z is a symbolic link",
    pointer_leads_up: "current points outside the repository",
    pointer_is_missing: "is missing or points to no state",
    pointer_leads_nowhere: "is missing or points to no state",
    pointer_is_a_copy: "current is not a symbolic link to a state",
    dists_is_a_copy: "dists is not a symbolic link to current/dists",
    dists_leads_elsewhere: "dists points to another path",
    suite_is_a_link: "points outside the repository",
    release_is_a_pipe: "Release is not a regular file",
    release_is_missing: "Release is missing",
    release_is_no_text: "InRelease is not signed by this key",
    inrelease_is_a_link: "InRelease points outside the repository",
    summary_is_missing: "suite.json is missing",
    summary_is_a_pipe: "suite.json is not a regular file",
    summary_is_deep: "suite.json is damaged",
    index_is_a_pipe: "Packages.gz is not a regular file",
    index_is_a_link: "Contents-amd64.gz points outside the repository",
}
ONLY_PUBLISH = {pool_folder_is_a_link, pool_file_is_a_pipe, pool_file_is_a_folder}
"""Only adding files to the pool detects these."""


@pytest.mark.parametrize("harm", REPOSITORY, ids=lambda harm: harm.__name__)
def test_publish_and_promote_refuse_a_tampered_repository(
    repo: Path, published: Publisher, checkout: Project, monkeypatch: pytest.MonkeyPatch, harm: Harm
) -> None:
    harm(repo)
    commands: list[Callable[[], object]] = [published]
    if harm not in ONLY_PUBLISH:
        monkeypatch.setenv("SOURCE_DATE_EPOCH", str(FIRST + 900))
        commands += [
            lambda: published(renew=True),
            lambda: promote.run(checkout, promote.PromoteRequest(repo, install=False), print),
        ]
    for command in commands:
        assert REPOSITORY[harm] in refused(command, repo)


def test_a_keyring_package_is_not_written_through_a_link(repo: Path, published: Publisher) -> None:
    keyring_folder_is_a_link(repo)
    assert "is a symbolic link, or below one" in refused(
        lambda: published(renew=True, url="https://new.example.org"), repo
    )


def test_a_first_publish_that_was_killed_before_writing_its_state_can_be_repeated(
    repo: Path, published: Publisher
) -> None:
    """It leaves a pointer to a missing state. If other states exist, a dangling pointer is refused instead."""
    for one in (repo / "snapshot").iterdir():
        shutil.rmtree(one)
    published()
    lines: list[str] = []
    assert check.run(str(repo), lines.append, install=False) is ExitStatus.GOOD, lines


@pytest.mark.parametrize("name", ["lost+found", "a\nb", "notes.txt"])
def test_other_files_among_the_states_are_kept(repo: Path, published: Publisher, name: str) -> None:
    (repo / "snapshot" / name).mkdir()
    (repo / "snapshot" / name / "letter").write_text("dear")
    published()
    prune.run(prune.PruneRequest(repo, older=1, yes=True), print)
    assert (repo / "snapshot" / name / "letter").read_text() == "dear"


def test_a_link_named_like_a_partial_file_is_removed_and_not_followed(repo: Path, published: Publisher) -> None:
    for folder in (repo, repo / "pool/main"):
        (folder / ".partial-1").symlink_to(repo.with_name(OUTSIDE))
    published()
    assert not (repo / ".partial-1").is_symlink()
    assert (repo.with_name(OUTSIDE) / "letter").read_text() == "dear"


@pytest.mark.parametrize("what", ["a file", "nothing", "a folder", "a loop"])
def test_a_path_that_is_not_a_repository_is_refused(checkout: Project, tmp_path: Path, what: str) -> None:
    place = tmp_path / "place"
    if what == "a file":
        place.write_text("dear")
    elif what == "a folder":
        place.mkdir()
    elif what == "a loop":
        place.symlink_to(place)
    for run in (
        lambda: publish.run(checkout, publish.PublishRequest(place, renew=True, install=False), print),
        lambda: promote.run(checkout, promote.PromoteRequest(place, install=False), print),
        lambda: prune.run(prune.PruneRequest(place), print),
        lambda: check.run(str(place), print, install=False),
    ):
        line = refused(run, place)
        assert (
            "is not a repository of this project" in line
            or "has no keyring/" in line
            or "is not a regular file" in line
        )


# -- check-repository --------------------------------------------------------------------------------------------------

CHECKED: dict[Harm, str] = {
    suite_is_a_link: "trixie-testing: InRelease points outside the repository",
    release_is_a_pipe: "trixie-testing: Release differs from the signed text in InRelease",
    inrelease_is_a_link: "trixie-testing: InRelease points outside the repository",
    index_is_a_pipe: "dists/trixie-testing/main/binary-amd64/Packages.gz is not a regular file",
    index_is_a_link: "dists/trixie-testing/main/Contents-amd64.gz points outside the repository",
    summary_is_a_pipe: "dists/trixie-testing/suite.json is not a regular file",
    summary_is_deep: "dists/trixie-testing/suite.json does not match its index entry",
}


def faults(where: Path | str) -> list[str]:
    lines: list[str] = []
    assert check.run(str(where), lines.append, install=False) is ExitStatus.FAILED, lines
    assert all(line.isprintable() for line in lines)
    return [line.removeprefix("fault: ") for line in lines if line.startswith("fault: ")]


@pytest.mark.parametrize("harm", CHECKED, ids=lambda harm: harm.__name__)
def test_check_repository_reports_the_tampered_file(repo: Path, harm: Callable[[Path], None]) -> None:
    harm(repo)
    before = everything(repo.parent)
    assert faults(repo) == [CHECKED[harm]]
    assert everything(repo.parent) == before


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: path.symlink_to("/etc/hostname"), "points outside the repository"),
        (os.mkfifo, "is not a regular file"),
        (lambda path: os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5)), "is not a regular file"),
        (lambda path: path.symlink_to(path.name), "is not a regular file"),
        (Path.mkdir, "is not a regular file"),
    ],
    ids=["link", "pipe", "device", "loop", "folder"],
)
def test_an_irregular_file_in_the_pool_or_by_hash_is_a_fault(
    repo: Path, make: Callable[[Path], None], why: str
) -> None:
    """Reading /dev/zero would never end, and opening a pipe would block."""
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


def test_a_suite_name_with_a_newline_is_reported_in_one_line(repo: Path) -> None:
    (state(repo) / "dists/a\nb\udcff").mkdir()
    assert faults(repo) == ["a\\nb\\udcff: InRelease is missing"]


@pytest.mark.parametrize("text", ["<html><body>Welcome</body></html>", "", "../../etc"])
def test_a_server_that_sends_a_page_for_every_request_is_not_a_repository(repo: Path, text: str) -> None:
    (state(repo) / "keyring/suites").write_text(text)
    with web(repo) as url, pytest.raises(UsageError, match=r"keyring/suites is not a list of suites\nhint: "):
        check.run(url, print, install=False)


@pytest.mark.parametrize(
    ("where", "expected", "status"),
    [
        ("ftp://127.0.0.1/x", "ftp://127.0.0.1/x is not a URL of a web server", ExitStatus.USAGE),
        ("http://127.0.0.1:1", "gpg: [Errno 111] Connection refused", ExitStatus.ENVIRONMENT),
        ("http://", "http: is not a URL of a web server", ExitStatus.USAGE),
    ],
)
def test_an_unreachable_address_is_reported_in_one_line(
    tmp_path: Path, where: str, expected: str, status: ExitStatus
) -> None:
    line = refused(lambda: check.run(where, print, install=False), tmp_path, status)
    assert expected in line
    assert len(line) < 200


def test_a_truncated_response_is_reported_with_its_address(repo: Path) -> None:
    """The server sends less than its Content-Length."""
    import http.server  # noqa: PLC0415
    import threading  # noqa: PLC0415

    class Half(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"half")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Log nothing."""

    server = http.server.HTTPServer(("127.0.0.1", 0), Half)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(MachineError, match=r"keyring.gpg: .*\nhint: is the web server up\?"):
            check.run(f"http://127.0.0.1:{server.server_address[1]}", print, install=False)
    finally:
        server.shutdown()
        server.server_close()
