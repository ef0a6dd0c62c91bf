"""The agent has root put the virtual address up and remove it."""

from __future__ import annotations

from typing import Any

import pytest

from pgpool_cluster.decision import virtual_address
from pgpool_cluster.decision.actions import DropAddress, TakeAddress
from pgpool_cluster.ground.errors import OperationError
from pgpool_cluster.machine import units
from pgpool_cluster.operations import address_service


def test_root_answers_before_a_node_has_to_be_fenced(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def control(verb: str, unit: str, *, seconds: float) -> None:
        asked.append((verb, unit))
        assert virtual_address.DROP_SECONDS + seconds < 3.0 or unit == "take"

    monkeypatch.setattr(units, "control", control)
    here: Any = None
    address_service.take(here, TakeAddress("pg1"))
    address_service.drop(here, DropAddress("pg1", "pg2 takes it"))
    assert asked == [("address", "take"), ("address", "drop")]


def test_a_refusal_is_reported_with_its_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    why = "another host on eth0 answers\nhint: ip neighbour show"

    class Root:
        """The control socket."""

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def read(self) -> str:
            return why

        def makefile(self, *_: object, **__: object) -> Any:
            return self

        def __getattr__(self, _: str) -> Any:
            return lambda *_: None

    monkeypatch.setattr("pgpool_cluster.machine.units.socket.socket", lambda *_: Root())
    here: Any = None
    with pytest.raises(
        OperationError, match="address take: another host on eth0 answers; hint: ip neighbour"
    ) as caught:
        address_service.take(here, TakeAddress("pg1"))
    assert caught.value.hint == "journalctl -u pgpool2-cluster.service shows more"
