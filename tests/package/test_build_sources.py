"""`./invoke build-deb` with damaged, incomplete or unavailable input from outside.

The inputs are its source and the archive for roots. Each run is at the desk (desk.py) and continues once all is well.
"""

from __future__ import annotations

import io
import shutil
import signal
import socket
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.package.broken_mirror import Handler, Mirror, half, hang, missing, whole
from tests.package.desk import BUILD, PINNED, POOL, RELEASE, TARBALL, VERSION, Desk, Ended, only_from_mirror


@pytest.fixture
def fresh_sources(desk: Desk) -> Path:
    """Remove all tarballs from the cache."""
    shutil.rmtree(desk.cache / "sources", ignore_errors=True)
    return desk.cache / "sources"


# ---- the source -----------------------------------------------------------------------------------------------------


def _truncated(good: Path, bad: Path) -> None:
    bad.write_bytes(good.read_bytes()[:1_000_000])


def _with_entry_outside(good: Path, bad: Path) -> None:
    with tarfile.open(bad, "w:gz") as tar:
        for name in (f"pgpool-II-{VERSION}/configure.ac", "../../etc/cron.d/own"):
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"own"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(_truncated, "truncated|cut short|ends|damaged"), (_with_entry_outside, r"\.\./\.\./etc/cron\.d/own|outside")],
)
def test_a_bad_tarball_is_refused_before_it_is_unpacked(
    desk: Desk, tmp_path: Path, spoil: Callable[[Path, Path], None], message: str
) -> None:
    bad = tmp_path / TARBALL
    spoil(desk.cache / "sources" / TARBALL, bad)
    before = desk.packages()
    desk.run(*BUILD, "--source", str(bad)).complains(2, message, "")
    assert desk.packages() == before
    shutil.copy(desk.cache / "sources" / TARBALL, bad)
    desk.run(*BUILD, "--source", str(bad)).succeeds("unchanged")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (missing, "404"),
        (half, "the connection ended in the middle of the file"),
        (whole, "sha256|checksum|another file"),
    ],
    ids=["404", "half-sent", "other content"],
)
def test_an_incomplete_tarball_is_never_used(
    desk: Desk, place: Path, mirror: Mirror, *, fresh_sources: Path, fault: Callable[[Handler], None], message: str
) -> None:
    before = desk.packages()
    mirror.faults[POOL] = fault
    broken = only_from_mirror(desk, place, sha256="0" * 64 if fault is whole else None)
    broken.run(*PINNED, "--mirror", mirror.uri).complains(3, message, "")
    assert not (fresh_sources / TARBALL).exists()
    assert desk.packages() == before
    mirror.faults.clear()
    only_from_mirror(desk, place).run(*PINNED, "--mirror", mirror.uri).succeeds("unchanged")
    assert (fresh_sources / TARBALL).is_file()


@pytest.mark.parametrize("silent", [True, False], ids=["time-out", "unreachable"])
def test_a_mirror_that_does_not_answer_fails_the_run(
    desk: Desk, place: Path, mirror: Mirror, fresh_sources: Path, silent: bool
) -> None:
    mirror.faults[POOL] = hang
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        uri = mirror.uri if silent else f"http://127.0.0.1:{nobody.getsockname()[1]}"
        one_pin = only_from_mirror(desk, place)
        one_pin.run(*BUILD, "--mirror", uri).complains(3, "none of the pinned versions can be", "--mirror URL")
    assert not (fresh_sources / TARBALL).exists()
    mirror.faults.clear()
    one_pin.run(*BUILD, "--mirror", mirror.uri).succeeds("unchanged")


def test_ctrl_c_during_the_download_is_not_a_failed_package(
    desk: Desk, place: Path, mirror: Mirror, fresh_sources: Path
) -> None:
    requested = threading.Event()

    def never(handler: Handler) -> None:
        requested.set()
        hang(handler)

    mirror.faults[POOL] = never
    one_pin = only_from_mirror(desk, place)
    process = one_pin.start(*PINNED, "--mirror", mirror.uri)
    assert requested.wait(30)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    Ended(process.returncode, out, err).complains(3, "^interrupted$", "the same command")
    mirror.faults.clear()
    one_pin.run(*PINNED, "--mirror", mirror.uri).succeeds("unchanged")


# ---- the archive that roots are made from ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "where", "message"),
    [
        (missing, "InRelease$|Release$", "InRelease|Release file|404"),
        (hang, "InRelease$", "no output for too long"),
        (None, "", "[Cc]onnect"),
    ],
    ids=["404", "time-out", "unreachable"],
)
def test_a_mirror_without_the_suite_is_an_environment_failure(
    rootless: Desk, mirror: Mirror, fault: Callable[[Handler], None] | None, where: str, message: str
) -> None:
    before = rootless.packages()
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        uri = mirror.uri if fault else f"http://127.0.0.1:{nobody.getsockname()[1]}"
        if fault:
            mirror.faults[where] = fault
        ended = rootless.run(*PINNED, "--mirror", uri, "--stall", "20" if fault is not hang else "5")
    ended.failed_cell(3, "root", rf"^the root of {RELEASE} was not created: .*({message})", "mirror")
    assert rootless.packages() == before


@pytest.mark.thorough
def test_a_build_continues_past_each_fault_of_a_mirror(rootless: Desk, mirror: Mirror) -> None:
    """Each run continues where the previous one failed, and the last one builds."""
    before = rootless.packages()
    command = (*PINNED, "--mirror", mirror.uri)
    for pattern, fault in (
        (r"/Packages|/by-hash/", half),
        (r"/base-files_.*\.deb$", half),
        (r"/ccache_.*\.deb$", missing),
    ):
        mirror.faults = {pattern: fault}
        rootless.run(*command).failed_cell(3, "root", f"^the root of {RELEASE} was not created: ", "mirror")
        assert not list((rootless.cache / "roots").glob(".partial-*")), "an incomplete root was left behind"
        assert rootless.packages() == before
    bases = [path.name for path in (rootless.cache / "roots").glob(f"{RELEASE}-*") if path.is_dir()]
    assert len(bases) == 1, "the base root was whole before the last fault, and is kept"
    mirror.faults = {}
    rootless.run(*command).succeeds("built")
    assert {bases[0]} < {path.name for path in (rootless.cache / "roots").glob(f"{RELEASE}-*") if path.is_dir()}
    assert not list((rootless.cache / "roots").glob(".partial-*"))
    rootless.packages()
