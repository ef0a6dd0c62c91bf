"""Each obstacle to logins of other nodes as postgres is reported on the node that has it, with the required edit."""

from __future__ import annotations

import pwd
from pathlib import Path
from types import SimpleNamespace

import pytest

from pgpool_cluster.configuration.rehearsal import doors
from pgpool_cluster.definition.cluster_file import parse
from pgpool_cluster.ground import paths, programs
from pgpool_cluster.ground.fault import Fault

CLUSTER = parse("nodes: {pg1: 10.0.0.1, pg2: 10.0.0.2}", "cluster.yml", "pg1")
GOOD = """\
port 22
listenaddress [::]:22
listenaddress 0.0.0.0:22
usepam yes
strictmodes yes
pubkeyauthentication yes
forcecommand none
chrootdirectory none
authenticationmethods any
authorizedkeysfile .ssh/authorized_keys .ssh/authorized_keys2
hostcertificate /etc/pgpool2/cluster/ssh_host_ed25519_key-cert.pub
hostkey /etc/ssh/ssh_host_rsa_key
hostkey /etc/ssh/ssh_host_ed25519_key
hostkeyalgorithms ssh-ed25519-cert-v01@openssh.com,ssh-ed25519
pubkeyacceptedalgorithms ssh-ed25519,rsa-sha2-512
"""


class Machine:
    """pg1, as root sees it. `sshd` is the output of sshd -T; `shadow` has the fields of password and expiry date."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sshd, self.shell, self.shadow = GOOD, "/bin/sh", ("!", "")
        self.aging = "1", "99999"
        self._file, home = folder / "shadow", folder / "postgresql"
        self.keys = home / ".ssh" / "authorized_keys"
        self.keys.parent.mkdir(parents=True, mode=0o700)
        self.keys.touch(mode=0o600)
        home.chmod(0o755)
        monkeypatch.setattr(paths, "HOME", home)
        monkeypatch.setattr(paths, "SHADOW", self._file)
        monkeypatch.setattr(paths, "NOLOGIN", ())
        monkeypatch.setattr(doors, "_groups", lambda: ["postgres", "ssl-cert"])
        monkeypatch.setattr(programs, "run", self._run)
        uid = self.keys.stat().st_uid
        monkeypatch.setattr(pwd, "getpwnam", lambda _: SimpleNamespace(pw_shell=self.shell, pw_uid=uid, pw_gid=1))

    def _run(self, words: list[str]) -> str:
        assert words == ["/usr/sbin/sshd", "-T", "-C",
                         "user=postgres,host=10.0.0.2,addr=10.0.0.2,laddr=10.0.0.1,lport=22"]  # fmt: skip
        return self.sshd

    def change(self, line: str) -> None:
        """Replace all lines that have the key of `line` by it."""
        key = line.partition(" ")[0]
        kept = [one for one in GOOD.splitlines() if one.partition(" ")[0] != key]
        self.sshd = "\n".join([*kept, line])

    @property
    def faults(self) -> list[Fault]:
        self._file.write_text(
            f"root:*:1::::::\npostgres:{self.shadow[0]}:{self.aging[0]}:0:{self.aging[1]}:7::{self.shadow[1]}:\n"
        )
        return doors.faults(CLUSTER, CLUSTER.named("pg1"))


@pytest.fixture
def pg1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_a_machine_with_debians_defaults_has_no_fault(pg1: Machine) -> None:
    """Its account is locked, which is not a fault if sshd uses PAM."""
    assert pg1.faults == []


def test_an_sshd_that_does_not_read_the_clusters_file_is_named(pg1: Machine) -> None:
    """This used to stay unreported, because sshd -T prints no line for a missing host certificate."""
    pg1.sshd = "\n".join(line for line in GOOD.splitlines() if not line.startswith("hostcertificate"))
    (found,) = pg1.faults
    assert found.why == "sshd has hostcertificate none"
    assert "Include /etc/ssh/sshd_config.d/*.conf" in found.fix


@pytest.mark.parametrize(
    ("text", "faults"),
    [("Port 22\nInclude /etc/ssh/sshd_config.d/*.conf\n", 0), ("#Include /etc/ssh/sshd_config.d/*\n", 1)],
)
def test_before_the_installation_the_include_line_is_checked(
    pg1: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, faults: int
) -> None:
    (tmp_path / "sshd_config").write_text(text)
    monkeypatch.setattr(paths, "SSHD", tmp_path / "sshd_config")
    pg1.sshd = "\n".join(line for line in GOOD.splitlines() if not line.startswith("hostcertificate"))
    assert len(doors.faults(CLUSTER, CLUSTER.named("pg1"), configured=False)) == faults


@pytest.mark.parametrize(("changed", "longest", "named"), [("0", "99999", True), ("1", "30", True), ("1", "", False)])
def test_a_password_that_must_be_changed_is_reported(pg1: Machine, changed: str, longest: str, named: bool) -> None:
    pg1.aging = changed, longest
    assert any("must be changed" in fault.why for fault in pg1.faults) is named


@pytest.mark.parametrize("shell", ["/usr/sbin/nologin", "/bin/false", "/bin/nowhere"])
def test_a_login_shell_that_runs_no_command_is_reported(shell: str, pg1: Machine) -> None:
    pg1.shell = shell
    (found,) = pg1.faults
    assert shell in found.why
    assert found.fix == "chsh -s /bin/bash postgres"


def test_a_locked_account_without_pam_is_reported(pg1: Machine) -> None:
    pg1.change("usepam no")
    (found,) = pg1.faults
    assert "locked, and sshd has UsePAM no" in found.why
    assert found.fix.startswith("usermod -p '*' postgres")
    pg1.shadow = ("*", "")
    assert pg1.faults == []


def test_a_file_with_which_pam_rejects_logins_is_reported(
    pg1: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nologin = tmp_path / "nologin"
    nologin.touch()
    monkeypatch.setattr(paths, "NOLOGIN", (tmp_path / "absent", nologin))
    (found,) = pg1.faults
    assert found.fix == f"rm {nologin}"
    pg1.change("usepam no")
    pg1.shadow = ("*", "")
    assert pg1.faults == [], "without PAM, sshd ignores the file"


def test_an_expired_account_is_reported(pg1: Machine) -> None:
    pg1.shadow = ("*", "100")
    (found,) = pg1.faults
    assert found.fix == "usermod --expiredate '' postgres"
    pg1.shadow = ("*", "99999")
    assert pg1.faults == []


@pytest.mark.parametrize(
    ("line", "fix"),
    [
        ("pubkeyauthentication no", "PubkeyAuthentication yes"),
        ("authenticationmethods publickey,password", "AuthenticationMethods publickey"),
        ("authorizedkeysfile /etc/ssh/keys/%u", "AuthorizedKeysFile .ssh/authorized_keys"),
        ("forcecommand internal-sftp", "ForceCommand none"),
        ("chrootdirectory /srv", "ChrootDirectory none"),
        ("hostcertificate none", "HostCertificate /etc/pgpool2/cluster/ssh_host_ed25519_key-cert.pub"),
        ("hostkey /etc/ssh/ssh_host_rsa_key", "HostKey /etc/ssh/ssh_host_ed25519_key"),
        ("hostkeyalgorithms rsa-sha2-512", "HostKeyAlgorithms +ssh-ed25519-cert-v01@openssh.com"),
        ("pubkeyacceptedalgorithms rsa-sha2-512", "PubkeyAcceptedAlgorithms +ssh-ed25519"),
        ("listenaddress 10.9.0.1:22", "ListenAddress 10.0.0.1:22"),
        ("listenaddress 0.0.0.0:2222", "ListenAddress 10.0.0.1:22"),
        ("allowusers admin", "add postgres to it"),
        ("allowusers postgres@10.1.0.0/16", "add postgres to it"),
        ("allowgroups wheel", "add postgres to it"),
        ("denyusers post*", "remove postgres from it"),
        ("denygroups ssl-cert", "remove postgres from it"),
    ],
)
def test_a_setting_of_sshd_that_keeps_nodes_out_is_reported(line: str, fix: str, pg1: Machine) -> None:
    pg1.change(line)
    (found,) = pg1.faults
    assert line.split()[1] in found.why
    assert fix in found.fix


@pytest.mark.parametrize(
    "line",
    ["allowusers postgres", "allowusers admin postgres@10.0.0.0/24", "allowusers p*@10.0.0.?", "denyusers !postgres *x",
     "allowgroups wheel ssl-cert", "authorizedkeysfile %h/.ssh/authorized_keys", "listenaddress 10.0.0.1:22",
     "authenticationmethods publickey password"],
)  # fmt: skip
def test_a_setting_of_sshd_that_admits_the_nodes_is_not_reported(line: str, pg1: Machine) -> None:
    pg1.change(line)
    assert pg1.faults == []


def test_keys_that_others_can_write_are_reported(pg1: Machine) -> None:
    pg1.keys.chmod(0o666)
    (found,) = pg1.faults
    assert found.fix.endswith(f"chmod go-w {pg1.keys}")
    pg1.change("strictmodes no")
    assert pg1.faults == []
