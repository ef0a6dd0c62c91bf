"""Roots in folders with odd names can be entered, and the disk is checked before a root is made."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from pgpool_deb.boxes import disk
from pgpool_deb.boxes.archive import DebianArchive
from pgpool_deb.boxes.roots import (
    AT_PLAIN_PATH,
    BUILD_USER,
    PLAIN,
    PLAIN_FILE,
    ROOT_USER,
    Root,
    Roots,
    entering,
    root_failure,
)
from pgpool_deb.ground import namespaces
from pgpool_deb.ground.cache import Cache
from pgpool_deb.ground.command import CommandFailed, Runner
from pgpool_deb.ground.errors import MachineError
from pgpool_deb.ground.releases import ExtraSource, Release, ReleaseTable, State

TABLE = ReleaseTable.load(Path(__file__).parents[3] / "packaging" / "releases.toml")
ODD = ["my cache  1", "a,b", "a:b", "a\\b", "Größe", "a'b$c;d(e)", '"', "a" * 250, " "]
mounting = pytest.mark.skipif(
    os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"], check=False).returncode != 0,
    reason="this user or container may not mount",
)


def layer(path: Path) -> Path:
    """Make a tree in which this machine's programs can run."""
    for name in ("proc", "dev", "etc", "usr"):
        (path / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        if Path("/", name).is_symlink():
            (path / name).symlink_to(f"usr/{name}")
    return path


def test_a_root_is_found_under_the_key_that_earlier_versions_computed(tmp_path: Path) -> None:
    """A change of the key, for example by a rename in the code, would make every user rebuild all roots."""
    backports = ExtraSource("mirror", ("trixie-backports",), ("main",), None, False, 500, ("*",))
    release = Release("trixie", 13, State.SUPPORTED, "trixie", (17,), ("trixie",), True, None, (backports,))
    folder = tmp_path / "roots"
    (folder / "trixie-layer").mkdir(parents=True)
    record = {"key": "k", "layers": ["trixie-layer"], "packages": ["gcc=14"], "resolved_at": time.time()}
    (folder / "trixie-70a6f06e9682.json").write_text(json.dumps(record))
    roots = Roots(Cache(tmp_path), "amd64", lambda: DebianArchive("", None))
    assert roots.current(release, ("gcc",)) == Root("trixie", "k", (folder / "trixie-layer",), ("gcc=14",))


@mounting
@pytest.mark.parametrize("name", ODD)
def test_a_root_below_any_path_is_entered(tmp_path: Path, name: str) -> None:
    place = tmp_path / name
    root = Root("sid", "key", (layer(place / "base"), place / "more"), ())
    (place / "more").mkdir()
    (place / "more" / "added").touch()
    (place / "seen").write_text("seen")
    binds = [(Path("/usr"), "/usr"), (place / "seen", "/etc/seen"), (place / "more", "/a folder/deep")]
    words = [*namespaces.as_root(confined=True), *entering(root, place / "scratch", ROOT_USER, binds, confined=True)]
    lines: list[str] = []
    runner = Runner(tmp_path / "log", on_line=lines.append)
    runner.run([*words, "sh", "-c", "cat /etc/seen; ls '/a folder/deep' /added /proc/self/fd; echo >/made"])
    assert lines == ["seen/added", "", "/a folder/deep:", "added", "", "/proc/self/fd:", "0", "1", "2", "3"]
    assert (place / "scratch" / "upper" / "made").exists()


@mounting
@pytest.mark.parametrize("allowed", [True, False])
def test_no_program_makes_the_build_user_root_and_its_user_namespace_has_no_other_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: bool
) -> None:
    """An untrusted build might leave or find a set-user-ID shell."""
    root = Root("sid", "key", (layer(tmp_path / "base"),), ())
    shell = tmp_path / "base" / "shell"
    shutil.copyfile("/bin/sh", shell)
    shell.chmod(0o4755)
    if not allowed:
        refusing = tmp_path / "unshare"
        refusing.write_text('#!/bin/sh\nif [ "$1" = --user ]; then exit 1; fi\nexec /usr/bin/unshare "$@"\n')
        refusing.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    inside = entering(root, tmp_path / "scratch", BUILD_USER, [(Path("/usr"), "/usr")], confined=True)
    script = "cat /proc/self/uid_map; grep NoNewPrivs /proc/self/status; stat -c %u /shell; /shell -p -c 'id -u; id -G'"
    lines: list[str] = []
    Runner(tmp_path / "log", on_line=lines.append).run(
        [*namespaces.as_root(confined=True), *inside, "sh", "-c", script]
    )
    mapped, privileges, owner, *user = (line.split() for line in lines)
    assert mapped == (["1000", "1000", "1"] if allowed else ["0", "0", "4294967295"])
    assert privileges[-1] == "1"
    assert owner == ["65534" if allowed else "0"]
    assert user == [["1000"], ["1000"]]


@mounting
@pytest.mark.parametrize("name", [*ODD, "shm"])
def test_a_program_sees_any_folder_at_a_plain_path(tmp_path: Path, name: str) -> None:
    place = Path(f"/dev/shm/test-{os.getpid()}") if name == "shm" else tmp_path / name  # noqa: S108 - that very place
    place.mkdir()
    try:
        (place / "told").write_text("told\n")
        script = f"cat {PLAIN_FILE}; echo made >{PLAIN}/file; mktemp; stat -c %a {PLAIN_FILE}"
        words = [*namespaces.as_root(), str(AT_PLAIN_PATH), str(place), str(place / "told"), "sh", "-c", script]
        lines: list[str] = []
        Runner(tmp_path / "log", on_line=lines.append).run(words)
        assert lines[0] == "told"
        assert lines[1].startswith(str(Path(PLAIN).parent))
        assert lines[2] == "600"
        assert (place / "file").read_text() == "made\n"
    finally:
        shutil.rmtree(place)


def test_a_cache_path_with_a_line_feed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPOOL_DEB_CACHE", str(tmp_path / "a\nb"))
    with pytest.raises(MachineError, match="line feed"):
        Cache.open()


# -- checks of a disk --------------------------------------------------------------------------------------------------


@mounting
def test_this_disk_supports_overlays_and_the_check_leaves_no_files(tmp_path: Path) -> None:
    disk.check_overlays(tmp_path)
    assert list(tmp_path.iterdir()) == []


OVERLAY = 'mount -t overlay -o "lowerdir={0}/roots,upperdir={0}/upper,workdir={0}/work" overlay {0}/roots'
NOEXEC = "mount --bind {0}/roots {0}/roots; mount -o remount,bind,noexec {0}/roots"
MASKED = 'mount --bind /dev/null /proc/interrupts; set -- unshare --user --map-root-user --mount --pid --fork "$@"'
"""A container's /proc, and a plain user's namespace in it: the kernel refuses another /proc, which would show more."""


@mounting
@pytest.mark.parametrize(
    ("script", "message", "hint"),
    [
        (
            OVERLAY,
            "^the cache is on overlayfs, which does not support the mounts of roots: .*/roots\n",
            "_CACHE=.* volume",
        ),
        (NOEXEC, "^the cache is on a file system that is mounted noexec: .*/roots\n", "PGPOOL_DEB_CACHE="),
        (MASKED, "forbids the mounts that roots need: .*proc", "--privileged, even for a plain user"),
        ("echo 'unshare: Operation not permitted'; exit 1", "forbids the mounts .* not permitted", "--privileged"),
    ],
)
def test_missing_overlays_are_reported_before_a_root_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str, hint: str
) -> None:
    for name in ("roots", "upper", "work"):
        (tmp_path / name).mkdir()
    begin = ["sh", "-euc", f'{script.format(tmp_path)}; exec "$@"', "sh"]
    words = ["unshare", "--mount", "--propagation", "private", *begin]
    monkeypatch.setattr(namespaces, "as_root", lambda *, confined=False: words)
    with pytest.raises(MachineError, match=message) as raised:
        disk.check_overlays(tmp_path / "roots")
    assert raised.match(hint)


def test_a_full_disk_is_reported_before_a_root_is_started(tmp_path: Path) -> None:
    disk.check_room(tmp_path, 1, "a root")
    with pytest.raises(MachineError, match=r"^a root needs up to 9 000 000 000 MB, and /\S+ has [0-9 ]+ MB free"):
        disk.check_room(tmp_path, 9_000_000_000_000_000, "a root")


def test_the_cause_of_apts_failure_is_reported_and_not_its_consequences() -> None:
    reason = "Could not load certificates from /root/company.pem (CaInfo option): Error while reading file."
    lines = (
        "Ign:1 https://mirror.example trixie InRelease",
        "Err:2 https://mirror.example trixie Release",
        f"  {reason}",
        "E: The repository 'https://mirror.example trixie Release' does not have a Release file.",
    )
    text = root_failure(TABLE.stable, CommandFailed(["mmdebstrap"], 25, lines)).message
    assert text.endswith(f"not created: {reason}")
    bare = root_failure(TABLE.stable, CommandFailed(["mmdebstrap"], 25, lines[:1] + lines[3:])).message
    assert bare.endswith("does not have a Release file.")


@mounting
def test_packages_that_could_not_be_written_are_refused_before_anything_is_built(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", tmp_path], check=True)
    try:
        with pytest.raises(
            MachineError, match=r"^packages cannot be written to .*/dist: Read-only file system\n.*ls -ld"
        ):
            disk.check_writable(tmp_path / "dist", "packages")
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    disk.check_writable(tmp_path / "dist", "packages")
    assert list((tmp_path / "dist").iterdir()) == []
