"""The list of misconfigurations that tests/cluster injects fits the checks and the shell."""

from __future__ import annotations

import re
import subprocess
from collections import Counter

import pytest
from tests.cluster.misconfigurations import MISCONFIGURATIONS, PRELUDE, Misconfiguration
from tests.unit.cluster.checked import Machine

from pgpool_cluster.agent.checks import checks

OF_ROOT = (
    "the applied configuration matches cluster.yml and cluster.key",
    "only root can read /etc/pgpool2/cluster.key",
    "sshd accepts logins of the other nodes as postgres",
)
ONLY_IF_FAILED = (
    "/etc/pgpool2/cluster/pgpool.conf is as rendered",
    "/etc/pgpool2/cluster/pool_hba.conf is as rendered",
    "/etc/postgresql/17/main/conf.d/pgpool2-cluster.conf is as rendered",
    "pgpool-II accepts the pcp password",
)


def test_there_are_at_least_forty_with_names_of_their_own() -> None:
    assert len(MISCONFIGURATIONS) >= 40
    assert [name for name, times in Counter(one.name for one in MISCONFIGURATIONS).items() if times > 1] == []
    assert sum(one.briefly for one in MISCONFIGURATIONS) >= 8
    assert sum(not one.by_root for one in MISCONFIGURATIONS) >= 10, "these are found from another node, too"


@pytest.mark.parametrize("fault", MISCONFIGURATIONS, ids=lambda fault: fault.name)
def test_a_shell_can_read_its_commands(fault: Misconfiguration) -> None:
    for script in (fault.inject, fault.undo):
        subprocess.run(["sh", "-n"], input=PRELUDE + script, text=True, check=True, capture_output=True)


@pytest.mark.parametrize("role", ["primary", "standby"])
def test_every_subject_is_that_of_a_check(role: str, request: pytest.FixtureRequest) -> None:
    machine: Machine = request.getfixturevalue("pg1" if role == "primary" else role)
    own = {check.what.replace(str(machine.folder / "own.pem"), "own.pem") for check in checks.run(machine.here)}
    subjects = {*own, *OF_ROOT, *ONLY_IF_FAILED}
    snakeoil = re.compile(r"the (certificate|private key) /etc/ssl/.*")
    strange = [
        one.name
        for one in MISCONFIGURATIONS
        if (one.host == "pg1") == (role == "primary") and not one.nodes and not snakeoil.match(one.fails)
        if not any(re.fullmatch(one.fails, subject) for subject in subjects)
    ]
    assert strange == []
    assert {"the certificate own.pem is valid", "the private key own.pem is usable"} <= own
