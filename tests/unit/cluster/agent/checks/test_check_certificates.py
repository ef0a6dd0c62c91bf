"""Faults of certificates, each found by its own check."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.cluster.checked import CLUSTER, Machine, make_certificate

from pgpool_cluster.agent.checks import check_certificates
from pgpool_cluster.decision.facts.facts import Postgresql
from pgpool_cluster.definition.cluster import Cluster, Node, Tls
from pgpool_cluster.definition.key import ClusterKey
from pgpool_cluster.machine import certificates
from pgpool_cluster.operations import proof


@pytest.mark.parametrize(("days", "why"), [(5, "it expires in 4 days"), (13, "it expires in 12 days"), (15, "")])
def test_a_certificate_is_reported_two_weeks_before_it_expires(
    days: int, why: str, pg1: Machine, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (pg1.folder / "own.pem").write_text(make_certificate(tmp_path_factory.mktemp("short"), days))
    assert [check.why for check in pg1.failed()] == ([why] if why else [])


@pytest.mark.parametrize("content", [None, "no certificate\n"])
def test_a_certificate_that_cannot_be_read_is_reported(content: str | None, pg1: Machine) -> None:
    path = pg1.folder / "own.pem"
    path.unlink()
    if content is not None:
        path.write_text(content)
    (found,) = pg1.failed()
    assert found.what == f"the certificate {path} is valid"
    assert found.why
    assert found.fix == "make-ssl-cert generate-default-snakeoil --force-overwrite"


def test_a_private_key_of_another_certificate_is_reported(
    pg1: Machine, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = pg1.folder / "other.pem"
    other.write_text(make_certificate(tmp_path_factory.mktemp("other"), 400))
    monkeypatch.setattr(check_certificates, "MACHINE_TLS", Tls(str(pg1.folder / "own.pem"), str(other), None))
    (found,) = pg1.failed()
    assert found.what == f"the private key {other} is usable"
    assert "does not belong to the certificate" in found.why
    assert found.fix == f"use the key that belongs to {pg1.folder / 'own.pem'}; then pgpoolctl apply"


def test_a_private_key_that_postgres_cannot_read_is_reported(pg1: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = str(pg1.folder / "absent.key")
    monkeypatch.setattr(check_certificates, "MACHINE_TLS", Tls(str(pg1.folder / "own.pem"), absent, None))
    (found,) = pg1.failed()
    assert found.why == "postgres cannot read it: No such file or directory"
    assert f"chgrp ssl-cert {absent}; chmod 0640 {absent}" in found.fix


@pytest.mark.parametrize(("late", "why"), [(1, ""), (2, proof.LATE)])
def test_a_busy_server_is_asked_twice_and_its_certificate_is_not_blamed(
    late: int, why: str, pg1: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [proof.LATE] * late

    def refused(_: Cluster, node: Node) -> str:
        return left.pop() if node.name == "pg1" and left else ""

    monkeypatch.setattr(proof, "refused_here", refused)
    found = pg1.failed()
    assert [check.why for check in found] == ([why] if why else [])
    assert not any("ssl_cert_file" in check.fix for check in found)


def test_a_certificate_of_cluster_yml_is_replaced_by_the_administrator(pg1: Machine) -> None:
    path = pg1.folder / "chosen.pem"
    pg1.cluster = replace(CLUSTER, tls=Tls(str(path), "", str(pg1.folder / "own.pem")))
    pg1.unproven = {"pg1": "expired", "pg2": "expired"}
    peers, chosen, own = pg1.failed()
    assert peers.fix.startswith("on pg2: replace it, then pgpoolctl apply")
    assert (chosen.what, chosen.fix) == (
        f"the certificate {path} is valid",
        "replace it, then pgpoolctl apply",
    )
    assert (own.why, own.fix) == ("expired", "replace it, then pgpoolctl apply")


def test_a_server_certificate_that_the_other_nodes_reject_is_reported(pg1: Machine) -> None:
    (pg1.folder / "server.pem").unlink()
    (found,) = pg1.failed()
    assert (found.what, found.why) == ("the other nodes can verify the certificate of PostgreSQL", "there is none")
    assert "remove ssl_cert_file" in found.fix


def test_a_server_that_presents_another_certificate_than_the_applied_one_is_reported(pg1: Machine) -> None:
    pg1.unproven = {"pg1": "its certificate is not the cluster's"}
    (found,) = pg1.failed()
    assert (found.what, found.why) == (
        "the other nodes can verify the certificate of PostgreSQL", "its certificate is not the cluster's",
    )  # fmt: skip
    pg1.becomes(postgresql=Postgresql.DOWN)
    assert [check.what for check in pg1.failed()] == ["PostgreSQL 17/main runs"], "it presents nothing while it is down"


def test_a_former_authority_is_reported_once_every_server_has_been_verified(pg1: Machine) -> None:
    laid = certificates.Laid.here()
    other = ClusterKey(bytes(range(1, 33)))
    (pg1.folder / "authorities").write_text(certificates.authorities(other, laid, alone=False))
    (found,) = pg1.failed()
    assert found.what == "no previous cluster.key is trusted"
    pg1.record = replace(pg1.record, proven="")
    assert pg1.failed() == []
