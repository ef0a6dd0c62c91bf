"""The nodes' authority and certificates pass the checks of OpenSSL and libpq."""

from __future__ import annotations

import base64
import random
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pgpool_cluster.definition.cluster import Node
from pgpool_cluster.definition.cluster_file import parse
from pgpool_cluster.definition.key import ClusterKey
from pgpool_cluster.ground import paths
from pgpool_cluster.machine import certificates
from pgpool_cluster.machine.certificates import NOTHING, Laid
from pgpool_cluster.machine.network.addresses import placed

KEY = ClusterKey(bytes(range(32)))
OTHER = ClusterKey(bytes(range(1, 33)))


def node_of(text: str, name: str = "pg1") -> Node:
    return placed(parse(f"nodes: {text}\n", "x", "pg1"), {"db1.example.org": "10.0.0.7"}).named(name)


FOUR = node_of("{pg1: 10.0.0.1}")
SIX = node_of("{pg1: fd00::1}")
NAMED = node_of("{pg1: db1.example.org}")


def laid(key: ClusterKey = KEY, node: Node = FOUR, before: Laid = NOTHING) -> Laid:
    return Laid(
        certificates.authorities(key, before, alone=False), certificates.server(key, node, before, certified=True)
    )


def verified(tmp_path: Path, pem: str, roots: str, *options: str) -> bool:
    """Return whether `openssl verify` accepts a certificate for a TLS server."""
    (tmp_path / "server.pem").write_text(pem)
    (tmp_path / "roots.pem").write_text(roots)
    command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", str(tmp_path / "roots.pem")]
    answer = subprocess.run([*command, *options, str(tmp_path / "server.pem")], capture_output=True, check=False)
    return answer.returncode == 0


@pytest.mark.parametrize(
    ("node", "right", "wrong"),
    [
        (FOUR, ("-verify_ip", "10.0.0.1"), ("-verify_ip", "10.0.0.2")),
        (SIX, ("-verify_ip", "fd00:0::1"), ("-verify_ip", "fd00::2")),
        (NAMED, ("-verify_ip", "10.0.0.7"), ("-verify_ip", "10.0.0.1")),
        (NAMED, ("-verify_hostname", "db1.example.org"), ("-verify_hostname", "db2.example.org")),
        (FOUR, ("-verify_hostname", "pg1"), ("-verify_hostname", "pg2")),
    ],
)
def test_openssl_accepts_a_certificate_only_for_its_node(
    tmp_path: Path, node: Node, right: tuple[str, str], wrong: tuple[str, str]
) -> None:
    here = laid(node=node)
    assert verified(tmp_path, here.server, here.authorities, *right)
    assert not verified(tmp_path, here.server, here.authorities, *wrong)
    assert certificates.faults(here.server, here.authorities, node) == ""


def test_a_clock_that_is_years_wrong_keeps_no_node_out(tmp_path: Path) -> None:
    here = laid()
    for year_in_seconds in ("978307200", "4102444800"):  # 2001, 2100
        assert verified(tmp_path, here.server, here.authorities, "-attime", year_in_seconds)


def test_another_cluster_is_another_authority(tmp_path: Path) -> None:
    assert not verified(tmp_path, laid(OTHER).server, laid().authorities)
    assert "no authority that the nodes trust" in certificates.faults(laid(OTHER).server, laid().authorities, FOUR)


def test_the_authority_is_the_same_on_every_node(tmp_path: Path) -> None:
    """Each node signs it separately, with different random numbers."""
    assert verified(tmp_path, laid(node=FOUR).server, laid(node=SIX).authorities)


def test_a_certificate_that_fits_is_kept_byte_for_byte() -> None:
    first = laid()
    assert laid(before=first) == first


@pytest.mark.parametrize("node", [SIX, replace(FOUR, address="10.0.0.9"), replace(FOUR, name="pg9")])
def test_another_address_or_name_gives_another_certificate(node: Node) -> None:
    before = laid()
    after = laid(node=node, before=before)
    assert after.authorities == before.authorities
    assert after.server != before.server
    assert certificates.faults(after.server, after.authorities, node) == ""


@pytest.mark.parametrize("damaged", ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_damaged_certificate_is_replaced(damaged: str) -> None:
    after = laid(before=Laid(damaged, damaged))
    assert certificates.faults(after.server, after.authorities, FOUR) == ""
    assert certificates.faults(damaged, after.authorities, FOUR) == "there is none"


def test_a_certificate_without_its_private_key_is_replaced() -> None:
    first, other = laid(), laid(node=replace(FOUR, name="pg2"))
    mixed = first.server.split("-----BEGIN PRIVATE")[0] + other.server.partition("\n-----END CERTIFICATE-----\n")[2]
    assert laid(before=replace(first, server=mixed)).server != mixed


def test_during_a_key_change_the_old_certificate_is_presented_and_both_are_trusted(tmp_path: Path) -> None:
    old = laid()
    trusted = certificates.authorities(OTHER, old, alone=False)
    shown = certificates.server(OTHER, FOUR, old, certified=False)
    assert shown == old.server
    during = Laid(trusted, shown)
    assert (during.count, during.of_first) == (2, False)
    new = certificates.server(OTHER, FOUR, during, certified=True)
    assert verified(tmp_path, old.server, trusted)
    assert verified(tmp_path, new, trusted)
    after = Laid(certificates.authorities(OTHER, during, alone=True), new)
    assert (after.count, after.of_first) == (1, True)
    assert verified(tmp_path, new, after.authorities)
    assert not verified(tmp_path, old.server, after.authorities)


def test_openssl_finds_the_authority_in_its_folder(tmp_path: Path) -> None:
    """pgpool-II uses a folder, because with a file it would request certificates from its clients."""
    here = laid(OTHER, before=laid())
    folder = tmp_path / "authorities"
    folder.mkdir()
    (folder / paths.AUTHORITIES.name).write_text(here.authorities)
    for server in (laid().server, here.server):
        (tmp_path / "server.pem").write_text(server)
        command = ["openssl", "verify", "-no-CAfile", "-CApath", str(folder), str(tmp_path / "server.pem")]
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_no_node_certificate_can_sign_or_authenticate_a_client(tmp_path: Path) -> None:
    here = laid()
    (tmp_path / "server.pem").write_text(here.server)
    (tmp_path / "roots.pem").write_text(here.authorities)
    command = ["openssl", "verify", "-purpose", "sslclient", "-CAfile", str(tmp_path / "roots.pem")]
    assert subprocess.run([*command, str(tmp_path / "server.pem")], capture_output=True, check=False).returncode != 0
    shown = subprocess.run(
        ["openssl", "x509", "-noout", "-text"], input=here.server, capture_output=True, text=True, check=True
    ).stdout
    assert "CA:FALSE" in shown
    assert "ecdsa-with-SHA256" in shown, "channel binding has no hash for it"


def test_a_secret_is_not_shown() -> None:
    assert "PRIVATE" not in repr(laid())


def garbled(pem: str, kind: str, chance: random.Random) -> str:
    """Return a PEM text with one byte changed."""
    data = bytearray(base64.b64decode("".join(pem.strip().splitlines()[1:-1])))
    data[chance.randrange(len(data))] = chance.randrange(256)
    return f"-----BEGIN {kind}-----\n{base64.encodebytes(data).decode()}-----END {kind}-----\n"


@pytest.mark.filterwarnings("ignore")
def test_any_content_of_the_certificate_file_is_replaced_and_stops_no_apply() -> None:
    """postgres owns server.pem, and root reads it in each `apply`."""
    good, chance = laid(), random.Random(1)
    certificate, secret = certificates._split(good.server)[0], certificates._CERTIFICATE.sub("", good.server)
    for _ in range(400):
        for text in (garbled(certificate, "CERTIFICATE", chance) + secret,
                     certificate + garbled(secret, "PRIVATE KEY", chance)):  # fmt: skip
            made = certificates.server(KEY, FOUR, Laid(good.authorities, text), certified=True)
            assert certificates.faults(made, good.authorities, FOUR) == ""
            certificates.faults(text, good.authorities, FOUR)


def test_a_file_full_of_begin_lines_is_parsed_quickly() -> None:
    began = time.monotonic()
    assert certificates._split("-----BEGIN CERTIFICATE-----\n" * 50_000) == []
    assert time.monotonic() - began < 2


def test_a_certificate_file_of_megabytes_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "SERVER_CERTIFICATE", tmp_path / "server.pem")
    monkeypatch.setattr(paths, "AUTHORITIES", tmp_path / "authorities")
    (tmp_path / "server.pem").write_text(laid().server + "x" * 2**17)
    assert Laid.here().server == ""
