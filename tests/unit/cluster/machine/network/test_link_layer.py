"""The table of neighbours, as ip(8) prints it."""

from __future__ import annotations

import pytest

from pgpool_cluster.ground import programs
from pgpool_cluster.ground.errors import ServerError
from pgpool_cluster.machine.network import link_layer

PRINTED = """[{"dst":"10.0.0.2","dev":"eth0","lladdr":"02:42:C6:12:00:02","state":["REACHABLE"]},
{"dst":"10.0.0.9","dev":"eth0","state":["FAILED"]}]"""


@pytest.mark.parametrize(("printed", "found"), [(PRINTED, {"10.0.0.2": "02:42:c6:12:00:02"}), ("[]", {}), ("", {})])
def test_only_neighbours_that_answered_are_listed(
    printed: str, found: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "run", lambda *_, **__: printed)
    assert link_layer.neighbours() == found


@pytest.mark.parametrize("printed", ["x", "[1]"])
def test_another_output_is_an_error(printed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "run", lambda *_, **__: printed)
    with pytest.raises(ServerError, match="ip prints"):
        link_layer.neighbours()
