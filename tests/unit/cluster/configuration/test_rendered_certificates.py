"""Which certificates a node presents and trusts, by its files."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.cluster.rendered import KEY, SERVER, THREE, files, pgpool_conf, postgresql_conf, text_of

from pgpool_cluster.configuration.rendering.rendered_paths import FOLDER
from pgpool_cluster.ground import paths

OWN = str(paths.SERVER_CERTIFICATE)
CA = "/etc/ssl/ca.pem"
TLS = f"{THREE}tls: {{certificate: /etc/ssl/db.pem, key: /etc/ssl/db.key, ca: {CA}}}\n"


@pytest.mark.parametrize("proven", ["", KEY.fingerprint, "of-another-key", CA])
def test_backends_are_verified_once_all_can_be(proven: str) -> None:
    """Before that, nodes of an older package stay reachable. A key change does not revert the verification."""
    server = replace(SERVER, proven=proven)
    made = files(server=server)
    verified = proven not in ("", CA)
    parameters = pgpool_conf(server=server)
    assert parameters.get("ssl_ca_cert_dir") == (str(paths.AUTHORITIES.parent) if verified else None)
    assert "ssl_ca_cert" not in parameters, "pgpool-II would ask its clients for certificates"
    service = text_of(f"{FOLDER}/pg_service.conf", made).splitlines()
    assert f"sslmode={'verify-full' if verified else 'require'}" in service
    assert (f"sslrootcert={paths.AUTHORITIES}" in service) == verified
    assert "channel_binding=require" in service
    assert text_of(str(paths.ROOT_CERTIFICATE), made) == (f"{paths.AUTHORITIES}\n" if verified else "\n")


@pytest.mark.parametrize("proven", ["", KEY.fingerprint, CA])
def test_an_administrators_authority_replaces_the_clusters(proven: str) -> None:
    made = files(TLS, server=replace(SERVER, proven=proven))
    assert text_of(str(paths.ROOT_CERTIFICATE), made) == (f"{CA}\n" if proven == CA else "\n")
    parameters = postgresql_conf(TLS)
    assert (parameters["ssl_cert_file"], parameters["ssl_ca_file"]) == ("/etc/ssl/db.pem", CA)


@pytest.mark.parametrize("text", [THREE, TLS.replace(f", ca: {CA}", "")])
def test_postgresql_presents_a_certificate_that_the_other_nodes_can_verify(text: str) -> None:
    parameters = postgresql_conf(text)
    assert (parameters["ssl_cert_file"], parameters["ssl_key_file"]) == (OWN, OWN)
    made = files(text)[OWN]
    assert (made.owner, made.mode) == ("postgres", 0o600)


def test_a_witness_knows_the_authority_and_has_no_certificate() -> None:
    made = files("nodes: {pg1: 10.0.0.1, pg2: 10.0.0.2, w: {address: 10.0.0.3, runs: [pgpool]}}\n", "w")
    assert str(paths.AUTHORITIES) in made
    assert OWN not in made
