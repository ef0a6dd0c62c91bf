"""How this node logs in to another one: the server has to prove itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pgpool_cluster import copying, libpq, paths, postgresql
from pgpool_cluster.cluster_file import parse
from pgpool_cluster.key import Role

ROOT = Path(__file__).parents[3]
CLUSTER = parse("nodes: {pg1: 10.0.0.1, pg2: 10.0.0.2}\n", "x", "pg1")


def words(text: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in text.split())


def every_connection() -> list[dict[str, str]]:
    found = [copying._dsn(CLUSTER.nodes[0], role) for role in Role]
    return [words(text) for text in (*found, postgresql.conninfo(CLUSTER, "pg2", "pg1"))]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(paths, "ROOT_CERTIFICATE", tmp_path / "sslrootcert")
    return paths.ROOT_CERTIFICATE


@pytest.mark.parametrize("content", [None, "", "\n"])
def test_while_a_server_may_have_no_certificate_of_ours_no_password_leaves_all_the_same(
    root: Path, content: str | None
) -> None:
    if content is not None:
        root.write_text(content)
    for connection in every_connection():
        assert connection["sslmode"] == "require"
        assert connection["channel_binding"] == "require"
        assert "sslrootcert" not in connection


def test_afterwards_the_certificate_and_the_name_in_it_are_checked(root: Path) -> None:
    root.write_text("/etc/pgpool2/cluster/authorities/3442880f.0\n")
    for connection in every_connection():
        assert connection["sslmode"] == "verify-full"
        assert connection["sslrootcert"] == "/etc/pgpool2/cluster/authorities/3442880f.0"
        assert connection["channel_binding"] == "require"


def test_nothing_else_says_how_a_server_proves_itself() -> None:
    """Another place would be forgotten when this one changes."""
    mine = {Path(libpq.__file__).name}
    for module in (ROOT / "scripts" / "pgpool_cluster").glob("*.py"):
        text = module.read_text(encoding="utf-8")
        if module.name not in mine:
            assert not re.search(r"""["' ](sslmode|sslrootcert|channel_binding)["']?\s*[=:]""", text), module
            assert not re.search(r"host=\{", text), f"{module} builds a connection string"
    templates = [path.name for path in (ROOT / "config-templates").iterdir() if "sslmode" in path.read_text()]
    assert templates == ["pg_service.conf.j2"]
