"""`check` on hosts reports the known faults of the installed pgpool2."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.host import Host

PATCHES = "/usr/share/pgpool2/patches.json"


@pytest.fixture
def lacking(pg1: Host) -> Iterator[Host]:
    """A host whose pgpool2 reports a missing patch."""
    pg1.run(f"cp {PATCHES} /root/patches.json; sed -i '/\"one-recovery\"/d' {PATCHES}")
    yield pg1
    pg1.run(f"cat /root/patches.json >{PATCHES}; rm /root/patches.json")


def test_our_package_lacks_nothing_and_its_advisories_cause_no_failure(pg1: Host) -> None:
    said = pg1.attempt("pgpoolctl check", seconds=60).output
    assert "ok    pg1: pgpool2 has the patches that the cluster requires" in said
    assert "FAIL  pg1: pgpool2" not in said


def test_a_missing_patch_fails(lacking: Host) -> None:
    said = lacking.attempt("pgpoolctl check", seconds=60).output
    assert "has the patch one-recovery: without it, after a failover, a second recovery can begin" in said
