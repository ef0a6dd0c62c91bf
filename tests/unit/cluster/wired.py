"""Other nodes that answer with JSON, including answers of older versions and malformed ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from pgpool_cluster.ground.errors import OperationError
from pgpool_cluster.transport import lines
from pgpool_cluster.transport.lines import Line
from pgpool_cluster.transport.peers import Peer
from pgpool_cluster.transport.protocol import Request

Json = dict[str, Any]


def answering(monkeypatch: pytest.MonkeyPatch, said: Callable[[str, Json], object]) -> None:
    """Make each node answer a request with `said(its name, the request as JSON)`. None: it refuses."""

    def ask(peer: Peer, request: Request[Any], *_: object) -> Line:
        asked = json.loads(lines.request(request))
        found = said(peer.name, asked)
        if found is None:
            return Line.parse(lines.refusal(OperationError("no", hint="never"), 0))
        return Line.parse(json.dumps({"done": found, "id": 0}).encode())

    monkeypatch.setattr(Peer, "_ask", ask)
