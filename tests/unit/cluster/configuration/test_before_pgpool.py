"""pgpool-II starts with the key that is applied, and what waited for its end is applied first."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pgpool_cluster.configuration import apply, before_pgpool, changes, key_file, pool_key
from pgpool_cluster.ground import paths


@pytest.mark.parametrize(
    ("key", "pool", "applied"),
    [("new", "same", False), ("new", "other", True), ("not applied", "other", False)],
    ids=["nothing deferred", "deferred", "another key than the applied one"],
)
def test_a_start_applies_what_was_deferred(key: str, pool: str, applied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def carry_out(planned: str) -> tuple[()]:
        done.append(planned)
        return ()

    monkeypatch.setattr(pool_key, "mark", lambda laid: done.append(f"mark {laid!r}"))
    monkeypatch.setattr(pool_key, "laid", lambda: "same")
    monkeypatch.setattr(paths, "laid_fingerprint", lambda: "new")
    monkeypatch.setattr(key_file, "read", lambda: SimpleNamespace(fingerprint=key, pool_key=pool))
    monkeypatch.setattr(changes, "plan", lambda: "plan")
    monkeypatch.setattr(apply, "carry_out", carry_out)
    before_pgpool.run()
    assert done == ["mark ''", *["plan"] * applied, "mark 'new'"]
