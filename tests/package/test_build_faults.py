"""When something fails during `./invoke build-deb`, it reports the fault, leaves nothing behind, and continues later.

Every test runs the command line of a copy of this checkout, with a cache of its own. Roots that this machine already
has are borrowed (read-only) through symbolic links; missing ones are made in the scratch cache.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.package.broken_mirror import Mirror
from tests.package.desk import BUILD, PINNED, RELEASE, TARBALL, VERSION, Desk, Ended, only_from_mirror
from tests.package.processes import alive, children, eventually, holding, mounts_below

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")


@pytest.fixture(scope="module")
def upstream(desk: Desk, place: Path) -> Callable[[str], Path]:
    """Return a function that unpacks the pinned tarball into a folder of a given name."""

    def unpack(name: str) -> Path:
        tree = place / name
        tree.mkdir()
        subprocess.run(["tar", "-xf", desk.cache / "sources" / TARBALL, "-C", tree, "--strip-components=1"], check=True)
        return tree

    return unpack


@pytest.fixture(scope="module")
def sleeper(upstream: Callable[[str], Path]) -> Path:
    """Make a source tree whose build waits while the desk's `hold` exists."""
    tree = upstream("sleeper")
    makefile = tree / "src" / "sql" / "pgpool-recovery" / "Makefile"
    makefile.write_text("HOLD := $(shell while [ -e /cache/hold ]; do sleep 1; done)\n" + makefile.read_text())
    return tree


@pytest.fixture
def held(desk: Desk, sleeper: Path) -> Iterator[Path]:
    """Remove the results of `sleeper`, and make its build wait until the file is removed."""
    results, aside = desk.cache / "results", desk.cache / "results.aside"
    results.rename(aside)
    hold = desk.hold(sleeper)
    if not hold.parent.exists():
        shutil.copytree(hold.parents[2] / "proved" / "cache", hold.parent)
    hold.touch()
    yield hold
    hold.unlink(missing_ok=True)
    shutil.rmtree(results, ignore_errors=True)
    aside.rename(results)


# ---- wrong usage and configuration ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (("--release", "woody"), r"^unknown release: woody$", r"releases\.toml lists bookworm, trixie"),
        (("--release", ""), r"--release .. contains an empty name", "by commas"),
        (("--release", RELEASE, "--pg", "99"), f"^PostgreSQL 99 is not available for {RELEASE}$", "lists 17 there"),
        (("--release", RELEASE, "--pg", "seventeen"), "^--pg seventeen is not a PostgreSQL major$", "--pg 15,17"),
        (("--pgpool", "1.2.3"), r"^pgpool-II 1\.2\.3 is not pinned in sources\.toml$", r"use one of .*4\.6\.1"),
        (("--engine", "steam"), "^unknown engine: steam$", "one of auto, docker, chroot"),
        (("--pgpool", VERSION, "--source", "x"), "^--pgpool and --source exclude each other$", "its own version"),
        (("--source", "/no-such"), "^--source /no-such: no such file or folder$", "takes a tarball"),
        (
            ("--pgpool", VERSION, "--mirror", "ftp.example"),
            "^--mirror ftp.example is not a URI$",
            r"http://HOST/debian",
        ),
        (("--jobs", "many"), "wrong value: .*'many'", "--help"),
        (("--jobs", "-1"), "--jobs", "--help"),
        (("--stall", "0"), "--stall", "--help"),
        (("--releases", "sid"), "--releases", "--help"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_wrong_usage_prints_two_lines_and_changes_nothing(
    desk: Desk, arguments: tuple[str, ...], message: str, hint: str
) -> None:
    before = desk.packages()
    desk.run("build-deb", *arguments).complains(2, message, hint)
    assert desk.packages() == before


@pytest.mark.parametrize("file", ["releases", "sources"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[oops\nx = 1\n", ": .*line 1"),
        ("[packaging]\nrevision = 0\ndate = 2026-01-01\n", r": \w+.*: "),
        ('addresses = ["ftp://nowhere/{version}"]\n', r": \w+.*: "),
        (None, "No such file"),
    ],
    ids=["no toml", "wrong value", "wrong address", "no file"],
)
def test_an_error_in_a_table_names_its_place(
    desk: Desk, tmp_path: Path, file: str, text: str | None, message: str
) -> None:
    path = tmp_path / "table.toml"
    if text is not None:
        path.write_text(text)
    before = desk.packages()
    broken = desk.with_env(**{f"PGPOOL_DEB_{file.upper()}": path})
    broken.run(*PINNED).complains(2, f"{re.escape(str(path))}.*{message}", "")
    assert desk.packages() == before
    desk.run(*PINNED).succeeds("unchanged")


# ---- the build ------------------------------------------------------------------------------------------------------


def test_a_compile_error_is_shown_and_its_root_can_be_entered(desk: Desk, upstream: Callable[[str], Path]) -> None:
    before = desk.packages()
    tree = upstream("broken")
    with (tree / "src" / "libs" / "pcp" / "pcp.c").open("a") as source:
        source.write("int broken(void) { return no_such_name; }\n")
    ended = desk.run(*BUILD, "--source", str(tree))
    cell = ended.failed_cell(1, "compile", r"pcp\.c:\d+:\d+: error: .no_such_name. undeclared", "shell")
    assert f"  shell: ./invoke shell {cell}\n" in ended.out
    assert desk.packages() == before
    inside = desk.run("shell", cell, stdin="pwd; id -un; grep -c no_such_name pgpool2/src/libs/pcp/pcp.c\n")
    assert (inside.status, inside.out.split()) == (0, ["/build", "builder", "1"])
    assert not mounts_below(desk.cache)
    desk.run(*PINNED).succeeds("unchanged")


@contextmanager
def _edited(path: Path, text: str) -> Iterator[None]:
    """Append `text` to a file of the desk's checkout, and restore it in the end."""
    before = path.read_text()
    path.write_text(before + text)
    yield
    path.write_text(before)


def test_a_changed_cluster_script_rebuilds_only_the_cluster_package(desk: Desk) -> None:
    before = desk.packages()
    with _edited(desk.project / "scripts" / "pgpool_cluster" / "ground" / "plain.py", "# touched\n"):
        explained = desk.run(*PINNED, "--explain").out
        assert re.search(rf"^{RELEASE}-\S+-{VERSION}: unchanged: all ", explained, re.MULTILINE)
        assert (
            f"{RELEASE}-pgpool2-cluster: will be built: scripts/pgpool_cluster/ground/plain.py changed\n" in explained
        )
        ended = desk.run(*PINNED)
        ended.succeeds("built")
        assert ": compile\n" in ended.out
        assert f"-{VERSION}: compile\n" not in ended.out
        after = desk.packages()
        assert after.keys() == before.keys()
        changed = {name for name in after if after[name] != before[name]}
        assert {name.partition("_")[0] for name in changed} - {"pgpool2-cluster.build.log"} == {"pgpool2-cluster"}
    desk.run(*PINNED).succeeds("unchanged")
    assert desk.packages() == before


def test_a_cell_whose_second_package_fails_leaves_dist_unchanged(desk: Desk) -> None:
    before = desk.packages()
    rules = "\noverride_dh_install:\n\techo 'error: broken'; false\n"
    with (
        _edited(desk.project / "debian-templates" / "pgpool2-cluster" / "rules", rules),
        _edited(desk.project / "debian-templates" / "pgpool2" / "README.Debian.j2", "Another one.\n"),
    ):
        ended = desk.run(*PINNED)
        ended.failed_cell(1, "package", "^error: broken$", "shell")
        assert f"  shell: ./invoke shell {RELEASE}-pgpool2-cluster\n" in ended.out
        assert desk.packages() == before
    desk.run(*PINNED).succeeds("unchanged")


def test_the_shell_of_a_cell_that_did_not_fail_is_wrong_usage(desk: Desk) -> None:
    desk.run("shell", "nothing").complains(2, "^'nothing' is not a failed build$", "fail")


@pytest.mark.thorough
def test_a_hung_step_is_stopped(desk: Desk, sleeper: Path, held: Path) -> None:
    before = desk.packages()
    ended = desk.run(*BUILD, "--source", str(sleeper), "--stall", "8")
    ended.failed_cell(3, "compile", "^compile: the build printed nothing for 8 s", "--stall SECONDS")
    assert desk.packages() == before
    held.unlink()
    desk.run(*BUILD, "--source", str(sleeper)).succeeds("built")
    desk.packages()


@pytest.mark.parametrize(
    "with_signal",
    [pytest.param(signal.SIGINT, id="Ctrl-C", marks=pytest.mark.thorough), pytest.param(signal.SIGKILL, id="kill -9")],
)
def test_a_killed_build_leaves_no_process_no_mount_and_no_package(
    desk: Desk, sleeper: Path, held: Path, with_signal: signal.Signals
) -> None:
    before = desk.packages()
    process = desk.start(*BUILD, "--source", str(sleeper))
    assert eventually(lambda: holding(process), 60), process.poll()
    below = children(process.pid)
    assert len(alive(below)) > 3
    process.send_signal(with_signal)
    out, err = process.communicate(timeout=20)
    if with_signal is signal.SIGINT:
        Ended(process.returncode, out, err).complains(3, "^interrupted$", "run the same command again to continue")
    else:
        assert process.returncode == -signal.SIGKILL
    assert eventually(lambda: not alive(below), 5), alive(below)
    assert not mounts_below(desk.cache)
    assert desk.packages() == before
    held.unlink()
    desk.run(*BUILD, "--source", str(sleeper)).succeeds("built")
    desk.packages()
    assert [path.name for path in (desk.cache / "boxes").glob(".*")] == [], "what the killed run left is swept"


# ---- the disk -------------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Callable[[str], None]]:
    """Mount a disk of `size` at `path`, and yield a function that changes its size."""
    path.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "tmpfs", str(path)], check=True)

    def resize(to: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={to}", str(path)], check=True)

    try:
        yield resize
    finally:
        subprocess.run(["umount", str(path)], check=True)


@contextmanager
def _cache_on_small_disk(desk: Desk, path: Path, size: str, shared: tuple[str, ...]) -> Iterator[Callable[[str], None]]:
    with small_disk(path, size) as resize:
        for name in shared:
            (path / name).symlink_to(desk.cache / name)
        yield resize


@as_root
def test_a_disk_that_is_full_before_the_download(desk: Desk, place: Path, mirror: Mirror) -> None:
    before = desk.packages()
    small = replace(only_from_mirror(desk, place), cache=place / "small")
    with _cache_on_small_disk(desk, small.cache, "3m", ("roots", "apt", "results", "compilers")) as resize:
        small.run(*PINNED, "--mirror", mirror.uri).complains(
            3, f"file system {small.cache} is full: {TARBALL} needs", "free|space"
        )
        assert desk.packages() == before
        resize("200m")
        small.run(*PINNED, "--mirror", mirror.uri).succeeds("unchanged")


@as_root
@pytest.mark.parametrize(
    "size",
    [
        pytest.param("4m", id="before the compiler"),
        pytest.param("40m", id="under the compiler", marks=pytest.mark.thorough),
    ],
)
def test_a_disk_that_fills_up_during_the_build(desk: Desk, place: Path, size: str) -> None:
    before = desk.packages()
    small = replace(desk, cache=place / "small")
    with _cache_on_small_disk(desk, small.cache, size, ("roots", "apt", "sources", "compilers")) as resize:
        small.run(*PINNED).failed_cell(3, r"\w+", "^no space left on the device", "free some space")
        assert desk.packages() == before
        if size == "40m":
            resize("1g")
            small.run(*PINNED).succeeds("built")
            desk.packages()


@as_root
def test_a_full_disk_under_dist_leaves_no_partial_package(desk: Desk, place: Path) -> None:
    shutil.copytree(desk.project, place / "other", ignore=shutil.ignore_patterns("dist"))
    other = replace(desk, project=place / "other")
    with small_disk(other.dist, "4m") as resize:
        other.run(*PINNED).complains(3, rf"dist/{RELEASE} cannot be written: No space left", "free space there")
        assert other.packages() == {}
        resize("64m")
        other.run(*PINNED).succeeds("unchanged")
        packages = other.packages()
        assert any(name.endswith(".deb") for name in packages)
        (other.dist / "filler").write_bytes(bytes(os.statvfs(other.dist).f_bavail * 4096))
        ended = other.run(*PINNED)
        ended.complains(3, "No space left", "")
        assert not list(other.dist.glob(".*"))
        assert other.packages() == packages


# ---- the machine ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "message", "hint"),
    [
        ("mmdebstrap", "^mmdebstrap is missing and --no-install forbids installing it$", "apt-get install mmdebstrap"),
        ("dpkg", "^dpkg is not installed$", "Debian"),
    ],
)
def test_a_missing_tool_is_named_with_its_package(
    rootless: Desk, tmp_path: Path, program: str, message: str, hint: str
) -> None:
    for folder in reversed(os.environ["PATH"].split(":")):
        for path in Path(folder).glob("*"):
            if path.name != program:
                (tmp_path / path.name).unlink(missing_ok=True)
                (tmp_path / path.name).symlink_to(path)
    before = rootless.packages()
    poor = rootless.with_env(PATH=tmp_path)
    poor.run(*PINNED, "--no-install").complains(3, message, hint)
    assert rootless.packages() == before
