"""A Debian Developer's checks of the packages: lintian of their own release, and blhc on the build log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.built import Built
from tests.chroot import Chroot

from pgpool_deb.boxes.roots import Roots
from pgpool_deb.ground.command import Runner
from pgpool_deb.ground.releases import Release


@pytest.fixture(scope="session")
def judge(release: Release, packages: Built, roots: Roots, systems: Path) -> Iterator[Chroot]:
    """Make a system of the release with lintian and blhc, and with the packages in /dist."""
    root = roots.obtain(release, ("lintian", "blhc"), Runner(systems / "judge.log"))
    chroot = Chroot(root, systems / f"judge-{release.name}", ((packages.folder, "/dist"),))
    yield chroot
    chroot.remove()


@pytest.fixture(params=["pgpool2", "pgpool2-cluster"])
def changes(request: pytest.FixtureRequest, packages: Built) -> str:
    """Return the .changes in /dist of each source package."""
    path = packages.one(".changes") if request.param == "pgpool2" else packages.one_of_cluster(".changes")
    return f"/dist/{path.name}"


def test_lintian_finds_nothing(judge: Chroot, changes: str) -> None:
    result = judge.attempt(f"lintian --allow-root --display-info --pedantic {changes}")
    tags = [line for line in result.output.splitlines() if not line.startswith("N:")]
    assert tags == [], result.output
    assert result.status == 0, result.output


def test_every_override_of_lintian_is_needed(judge: Chroot, changes: str) -> None:
    assert judge.run(f"lintian --allow-root --tags unused-override,mismatched-override {changes}") == ""


def test_lintian_detects_a_seeded_fault(judge: Chroot, packages: Built) -> None:
    """lintian reports a package without its changelog."""
    made = judge.attempt(
        "rm -rf /bad; dpkg-deb -R /dist/pgpool2_*_*.deb /bad; rm /bad/usr/share/doc/pgpool2/changelog*.gz;"
        "dpkg-deb -b /bad /bad.deb >/dev/null; lintian --allow-root /bad.deb"
    )
    assert "E: pgpool2: no-changelog" in made.output, made.output


def test_every_compiler_call_is_hardened(judge: Chroot) -> None:
    result = judge.attempt("blhc --all /dist/build.log")
    assert (result.status, result.output) == (0, "")


def test_blhc_sees_the_compiler_calls(judge: Chroot) -> None:
    """blhc complains if the log lacks a hardening flag, so it does read our build's output."""
    result = judge.attempt(
        "sed 's/-D_FORTIFY_SOURCE=[23]//' /dist/build.log >/tmp/soft.log && blhc --all /tmp/soft.log"
    )
    assert result.status != 0
    assert "CPPFLAGS missing" in result.output
