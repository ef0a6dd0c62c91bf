"""Machines with odd paths, and with a company's certificate authority and proxies before their archive."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.authority import company
from tests.package.broken_mirror import Mirror
from tests.package.builds import copy_of
from tests.package.desk import CHECKOUT, PINNED, Desk
from tests.serving import serving

from pgpool_deb.boxes import archive
from pgpool_deb.boxes.archive import DebianArchive
from pgpool_deb.boxes.roots import Roots
from pgpool_deb.builds import plan
from pgpool_deb.ground.cache import Cache
from pgpool_deb.ground.command import Runner
from pgpool_deb.ground.releases import Release

ODD = "my cache, a:b größe"
UPDATE = ["apt-get", "-o", "APT::Update::Error-Mode=any", "update"]


@pytest.fixture
def secure() -> Iterator[Mirror]:
    """Serve the machine's own mirror with a company's certificate in a folder that apt's user can read."""
    with tempfile.TemporaryDirectory(prefix="company-") as place:
        Path(place).chmod(0o755)
        with serving(Mirror(archive.find_archive(None).mirror, company(Path(place, "company.pem")))) as server:
            yield server


def asks(uri: str, release: Release, place: Path) -> list[str]:
    """Return how apt in the base root of a release contacts an archive, with a cache in an odd path."""
    users = Cache.open()
    usual = Roots(users, plan.machine_architecture(), lambda: archive.find_archive(None))
    base = usual.obtain(release, (), Runner(place / "root.log"))
    store = Roots(Cache(place / ODD), plan.machine_architecture(), lambda: DebianArchive(uri, None))
    short = replace(release, suites=(release.suites[0] + "-updates",))
    lines: list[str] = []
    store.run_in(base, UPDATE, Runner(place / "log", on_line=lines.append), binds=store.apt_binds(short))
    return lines


@pytest.mark.parametrize("way", ["authority", "proxy", "program"])
def test_apt_in_a_root_uses_the_machines_proxies_and_certificates(
    one_release: Release, secure: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    program = tmp_path / "detect"
    program.write_text('#!/bin/sh\necho "$1" >>"$0.asked"\necho DIRECT\n')
    program.chmod(0o755)
    further = {
        "authority": "",
        "proxy": 'Acquire::https::Proxy "http://127.0.0.1:9"; Acquire::https::Proxy::127.0.0.1 "DIRECT";',
        "program": f'Acquire::https::Proxy "http://127.0.0.1:9"; Acquire::https::Proxy-Auto-Detect "{program}";',
    }[way]
    (tmp_path / "apt.conf").write_text(f'Acquire::https::CaInfo "{secure.authority}"; {further}')
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    assert any(line.startswith("Get:1 https://127.0.0.1") for line in asks(secure.uri, one_release, tmp_path))
    assert way != "program" or Path(f"{program}.asked").exists()


@pytest.mark.thorough
def test_a_build_from_nothing_on_an_awkward_machine(place: Path, desk: Desk, secure: Mirror, tmp_path: Path) -> None:
    """Checkout, cache and TMPDIR have odd paths, and the https mirror has a company's certificate."""
    awkward = place / ODD
    (awkward / "tmp").mkdir(parents=True)
    conf = tmp_path / "apt.conf"
    conf.write_text(f'Acquire::https::CaInfo "{secure.authority}";')
    there = Desk(copy_of(CHECKOUT, awkward / "a'project"), awkward / "cache")
    there = there.with_env(APT_CONFIG=conf, TMPDIR=awkward / "tmp")
    there.run(*PINNED, "--mirror", secure.uri).succeeds("built")
    built, usual = there.packages(), desk.packages()
    assert {name: built[name] for name in usual if name.endswith(".deb")} == {
        name: sha256 for name, sha256 in usual.items() if name.endswith(".deb")
    }
