"""Debian's own testers accept the packages: piuparts checks the removal, autopkgtest the installation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.built import Built
from tests.chroot import Chroot

from pgpool_deb.boxes.roots import Roots
from pgpool_deb.ground.command import Runner
from pgpool_deb.ground.releases import Release

pytestmark = pytest.mark.thorough
PIUPARTS = (
    "piuparts --existing-chroot=/base --keep-sources-list --no-eatmydata --warn-on-debsums-errors"
    " --scriptsdir=/etc/piuparts/scripts --skip-logrotatefiles-test --ignore-regex='^/etc/init[.]d/?$'"
)
"""A bare root has no /etc/init.d; the packages that others bring make it, and leave it."""
AUTOPKGTEST = "apt-get update -q; autopkgtest --no-built-binaries --output-dir=/tmp/said {debs} {source} -- null"
SKIPPED = 2
"""autopkgtest's status where some tests passed and others, which need a machine of their own, were left out."""


@pytest.fixture(scope="module")
def tester(release: Release, packages: Built, roots: Roots, systems: Path) -> Iterator[Chroot]:
    """Make a system of the release with piuparts and autopkgtest, our packages in /dist, and a bare system in /base."""
    runner = Runner(systems / "tester.log")
    root = roots.obtain(release, ("piuparts", "autopkgtest"), runner)
    (bare,) = roots.obtain(release, (), runner).layers
    chroot = Chroot(root, systems / f"tester-{release.name}", ((packages.folder, "/dist"), (bare, "/base")))
    yield chroot
    chroot.remove()


def test_a_purge_leaves_no_files(tester: Chroot, packages: Built) -> None:
    answer = tester.attempt(f"{PIUPARTS} {packages.debs}", network=True)
    assert answer.status == 0, answer.output[-4000:]
    assert "PASS: Installation and purging test" in answer.output


def test_a_purge_of_the_cluster_package_leaves_no_files(tester: Chroot, packages: Built) -> None:
    answer = tester.attempt(f"{PIUPARTS} {packages.debs} {packages.cluster_deb}", network=True)
    assert answer.status == 0, answer.output[-4000:]
    assert "PASS: Installation and purging test" in answer.output


def test_piuparts_detects_a_seeded_fault(tester: Chroot) -> None:
    tester.run(
        "rm -rf /bad; mkdir -p /bad/DEBIAN;"
        "printf 'Package: bad\\nVersion: 1\\nArchitecture: all\\nMaintainer: x <x@y.z>\\nDescription: bad\\n'"
        " >/bad/DEBIAN/control; printf '#!/bin/sh\\ntouch /etc/left-behind\\n' >/bad/DEBIAN/postinst;"
        "chmod 755 /bad/DEBIAN/postinst; dpkg-deb -b /bad /bad.deb"
    )
    answer = tester.attempt(f"{PIUPARTS} /bad.deb", network=True)
    assert answer.status != 0
    assert "/etc/left-behind" in answer.output


def test_the_tests_of_the_source_package_pass(tester: Chroot, packages: Built) -> None:
    source = f"/dist/{packages.one('.dsc').name}"
    answer = tester.attempt(AUTOPKGTEST.format(debs=packages.debs, source=source), network=True)
    assert answer.status in (0, SKIPPED), answer.output[-4000:]
    assert "installcheck         PASS" in answer.output
