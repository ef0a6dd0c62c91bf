"""A later version keeps an administrator's edits, asks no questions, and interrupts no client."""

from __future__ import annotations

import pytest
from tests.chroot import Answer
from tests.cluster.cluster import Cluster
from tests.host import Host

EDIT = """
sed -i 's/^#\\?num_init_children.*/num_init_children = 31/' /etc/pgpool2/pgpool.conf
grep -q '^num_init_children = 31' /etc/pgpool2/pgpool.conf
echo '# what the administrator knows' >>/etc/pgpool2/cluster.yml
echo '# edited' >>/etc/pgpool2/cluster/pool_hba.conf
echo "statement_timeout = '1h'" >/etc/postgresql/{major}/main/conf.d/local.conf
echo 'host all dba 10.9.9.9/32 scram-sha-256' >>/etc/postgresql/{major}/main/pg_hba.conf
echo 'ssh-ed25519 AAAA of-the-administrator' >>~postgres/.ssh/authorized_keys
"""
EDITED = """
cd /etc/pgpool2; sha256sum pgpool.conf cluster.yml cluster/pool_hba.conf ~postgres/.ssh/authorized_keys
sha256sum /etc/postgresql/*/main/pg_hba.conf /etc/postgresql/*/main/conf.d/local.conf
"""
LATER = """
cd /root
for package in pgpool2 pgpool2-cluster; do
    rm -rf later
    dpkg-deb -R /srv/packages/${package}_*.deb later
    sed -i 's/^Version: .*/&+later/; s/ (= [^)]*)//g' later/DEBIAN/control
    [ $package = pgpool2 ] || echo '# a line of the later version' >>$(find later -name pool_hba.conf.j2)
    [ $package != pgpool2 ] || echo '# a line of the later version' >>later/usr/share/pgpool2/pgpool.conf
    dpkg-deb -b later $package-later.deb >/dev/null
done
"""
MAIN = "systemctl show -P MainPID 'postgresql@*'"


@pytest.fixture(scope="module")
def edited(cluster: Cluster, pg3: Host) -> str:
    """pg3 with edits in every shared file, and in one file of the cluster alone."""
    major = pg3.run("ls /etc/postgresql")
    pg3.run(EDIT.format(major=major))
    return pg3.run(EDITED)


@pytest.fixture(scope="module")
def upgraded(cluster: Cluster, pg3: Host, edited: str) -> tuple[Answer, str, str]:
    """The result of the upgrade, and the main process of PostgreSQL before and after it."""
    assert edited
    pg3.run(LATER)
    before = pg3.run(MAIN)
    answer = pg3.attempt("apt-get install -y -q /root/pgpool2-later.deb /root/pgpool2-cluster-later.deb </dev/null")
    return answer, before, pg3.run(MAIN)


def test_the_upgrade_asks_nothing_and_postgresql_keeps_running(upgraded: tuple[Answer, str, str]) -> None:
    answer, before, after = upgraded
    assert answer.status == 0, answer.output
    assert answer.questions == []
    assert before == after != "0"


def test_every_edit_is_kept(cluster: Cluster, pg3: Host, edited: str, upgraded: tuple[Answer, str, str]) -> None:
    assert upgraded
    assert pg3.run(EDITED) == edited
    pg3.run("pgpoolctl apply; dpkg-reconfigure -f noninteractive pgpool2-cluster")
    assert pg3.run(EDITED) == edited
    cluster.wait_healthy()


def test_the_later_versions_file_is_written_beside_it(pg3: Host, upgraded: tuple[Answer, str, str]) -> None:
    assert upgraded
    assert "later version" in pg3.run("cat /etc/pgpool2/cluster/pool_hba.conf.new")


def test_the_edits_work(pg3: Host, cluster: Cluster, upgraded: tuple[Answer, str, str]) -> None:
    assert upgraded
    pg3.run("systemctl restart pgpool2")
    cluster.wait_healthy()
    assert cluster.ask("PGPOOL SHOW num_init_children", at=pg3) == "31"


def test_a_file_without_edits_is_managed_again(cluster: Cluster, pg3: Host) -> None:
    pg3.run("mv /etc/pgpool2/cluster/pool_hba.conf.new /etc/pgpool2/cluster/pool_hba.conf; pgpoolctl apply")
    assert pg3.run("ls /etc/pgpool2/cluster | grep new || :") == ""
    assert "unchanged" not in pg3.run("pgpoolctl apply --diff")
    cluster.wait_healthy()
