"""Apt in a root gets the proxies, certificates and passwords of the machine's apt."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pgpool_deb.ground import apt_conf
from pgpool_deb.ground.apt_conf import FOLDER, AptConf
from pgpool_deb.ground.errors import MachineError

MIRROR = "http://mirror.example/debian"
SECURE = "https://user@secure.example:8443/debian"
CLEARED = AptConf().inside


class Machine:
    """A machine whose apt has only the test's configuration."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.etc = place / "etc"
        self.etc.mkdir()
        self._conf = place / "apt.conf"
        monkeypatch.setenv("APT_CONFIG", str(self._conf))
        for name in ("http_proxy", "https_proxy", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        self.said()

    def said(self, *lines: str) -> None:
        parts = f'Dir::Etc::Parts "/dev/null"; Dir::Etc::Main "/dev/null"; Dir::Etc "{self.etc}/";'
        self._conf.write_text("\n".join([parts, *lines]))

    def program(self, script: str) -> Path:
        path = self.etc / "detect proxy"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_a_machine_without_proxies_passes_none_on(machine: Machine) -> None:
    assert apt_conf.read([MIRROR]) == AptConf()
    assert apt_conf.proxy(f"{MIRROR}/pool/x") is None


def test_proxies_of_apts_configuration_are_passed_on(machine: Machine) -> None:
    lines = ['Acquire::http::Proxy "http://me:secret@proxy.example:3142";', 'Acquire::https::Verify-Peer "false";']
    machine.said(*lines, 'Acquire::ForceIPv4 "true";', 'Acquire::GzipIndexes "true";', 'APT::Color "x";')
    result = apt_conf.read([MIRROR])
    assert result.outside == [*lines, 'Acquire::ForceIPv4 "true";']
    assert result.inside == [*CLEARED, *result.outside]
    assert apt_conf.proxy(f"{MIRROR}/pool/x") == "http://me:secret@proxy.example:3142"


def test_a_proxy_detection_program_runs_here_and_not_in_the_root(machine: Machine) -> None:
    program = machine.program('case $1 in *mirror*) echo "http://found.example:8080 " ;; *) echo DIRECT ;; esac')
    machine.said(f'Acquire::http::Proxy-Auto-Detect "{program}"; Acquire::http::Proxy "http://general.example";')
    result = apt_conf.read([MIRROR, "http://other.example/security"])
    assert result.outside == [
        'Acquire::http::Proxy "http://general.example";',
        'Acquire::http::Proxy::mirror.example "http://found.example:8080";',
        'Acquire::http::Proxy::other.example "DIRECT";',
    ]
    assert apt_conf.proxy(f"{MIRROR}/pool") == "http://found.example:8080"
    assert apt_conf.proxy("http://other.example/pool") is None


def test_a_missing_proxy_detection_program_is_reported(machine: Machine) -> None:
    machine.said('Acquire::http::ProxyAutoDetect "/no/such";')
    with pytest.raises(MachineError, match=r"proxy detection program cannot be run: .*/no/such.*\nhint: apt-config"):
        apt_conf.read([MIRROR])


def test_proxies_of_the_environment_reach_the_root_unless_apt_has_its_own(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy.example:8080")
    monkeypatch.setenv("no_proxy", "localhost,.inner.example")
    addresses = [MIRROR, "http://a.inner.example/debian"]
    assert apt_conf.read(addresses).outside == [
        'Acquire::http::Proxy::mirror.example "http://proxy.example:8080";',
        'Acquire::http::Proxy::a.inner.example "DIRECT";',
    ]
    machine.said('Acquire::http::Proxy "http://apts.example";')
    assert apt_conf.read([MIRROR]).outside == ['Acquire::http::Proxy "http://apts.example";']


def test_an_https_mirror_is_verified_with_the_machines_certificates(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "all.crt"
    bundle.touch()
    monkeypatch.setattr(apt_conf, "CERTIFICATES", bundle)
    result = apt_conf.read([MIRROR, SECURE])
    assert result.outside == []
    assert result.inside == [*CLEARED, f'Acquire::https::CaInfo "{FOLDER}/ca-certificates.crt";']
    assert result.binds == [(bundle, f"{FOLDER}/ca-certificates.crt")]
    bundle.unlink()
    apt_conf.read([MIRROR])
    with pytest.raises(MachineError, match=r"is https, .*no certificates .*\nhint: apt-get install ca-certificates"):
        apt_conf.read([SECURE])


@pytest.mark.parametrize(
    "option",
    ['Acquire::https::Verify-Peer "false"', 'Acquire::https::secure.example::Verify-Peer "0"']
    + [f'Acquire::https::{name}CaInfo "/etc/hostname"' for name in ("", "secure.example::")],
)
def test_an_archive_with_its_own_verification_needs_no_certificates_of_the_machine(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setattr(apt_conf, "CERTIFICATES", Path("/no/such"))
    machine.said(f"{option};")
    assert len(apt_conf.read([SECURE]).outside) == 1


def test_each_https_host_is_decided_on_its_own(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apt_conf, "CERTIFICATES", Path("/no/such"))
    machine.said('Acquire::https::secure.example::CaInfo "/etc/hostname";')
    with pytest.raises(MachineError, match=r"^https://other\.example/debian is https, .*no certificates"):
        apt_conf.read([SECURE, "https://other.example/debian"])


@pytest.mark.parametrize("name", ["CaInfo", "SslCert", "other.example::CrlFile"])
def test_a_missing_file_matters_only_for_an_address_that_uses_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(apt_conf, "CERTIFICATES", Path("/etc/hostname"))
    machine.said(f'Acquire::https::{name} "/no/such.pem";')
    assert apt_conf.read([MIRROR]) == AptConf()
    assert apt_conf.certificates() is None
    with pytest.raises(MachineError, match=r"Acquire::https::\S+ names a missing file: /no/such\.pem\nhint"):
        apt_conf.read([MIRROR, "https://other.example/debian"])


def test_certificates_of_apts_configuration_are_visible_in_the_root(machine: Machine) -> None:
    company, key = machine.etc / "company.pem", machine.etc / "key.pem"
    for path in (company, key):
        path.touch()
    machine.said(f'Acquire::https::CAInfo "{company}"; Acquire::https::secure.example::SslKey "{key}";')
    result = apt_conf.read([SECURE])
    assert result.outside == [
        f'Acquire::https::CAInfo "{company}";',
        f'Acquire::https::secure.example::SslKey "{key}";',
    ]
    assert [path for path, _ in result.binds] == [company, key]
    for (path, target), line in zip(result.binds, result.inside[2:], strict=True):
        assert line == result.outside[result.binds.index((path, target))].replace(str(path), target)


def test_passwords_of_archives_are_visible_in_the_root(machine: Machine) -> None:
    (machine.etc / "auth.conf.d").mkdir()
    for name in ("auth.conf", "auth.conf.d/company.conf", "auth.conf.d/ignored.old"):
        (machine.etc / name).write_text("machine mirror.example login me password secret\n")
    result = apt_conf.read([MIRROR])
    assert not any("secret" in line for line in result.inside)
    assert result.binds == [
        (machine.etc / "auth.conf", f"{FOLDER}/auth.conf"),
        (machine.etc / "auth.conf.d/company.conf", f"{FOLDER}/auth.conf.d/company.conf"),
    ]
    for lines, place in ((result.outside, machine.etc), (result.inside[2:], Path(FOLDER))):
        assert lines == [f'Dir::Etc::netrc "{place}/auth.conf";', f'Dir::Etc::netrcparts "{place}/auth.conf.d/";']


def test_an_archive_in_a_folder_is_visible_in_the_root(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "my mirror").mkdir()
    result = apt_conf.read([f"file://{tmp_path}/my%20mirror", "copy:/no/such"])
    assert result.binds == [(tmp_path / "my mirror", str(tmp_path / "my mirror"))]


def test_apt_can_read_the_configuration(machine: Machine, tmp_path: Path) -> None:
    machine.said('Acquire::http::Proxy "http://proxy.example:3142";')
    inside = "\n".join(['Acquire::http::Proxy::stale.example "x";', *apt_conf.read([MIRROR]).inside])
    (tmp_path / "inside").write_text(inside)
    environment = {**os.environ, "APT_CONFIG": str(tmp_path / "inside")}
    command = ["apt-config", "-o", "Dir::Etc::Parts=/dev/null", "dump", "Acquire::http"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert 'Acquire::http::Proxy "http://proxy.example:3142";' in answer
    assert "stale" not in answer
