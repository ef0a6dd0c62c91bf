"""An agent on a socket, with answers that a test prepares."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pgpool_cluster.ground import paths
from pgpool_cluster.ground.errors import OperationError
from pgpool_cluster.transport.channel import serving
from pgpool_cluster.transport.peers import Progress
from pgpool_cluster.transport.protocol import Done, Request


@dataclass
class Said:
    """`asked` has the received requests. `answers` has an answer, an error, or a function for each kind of request."""

    asked: list[object] = field(default_factory=list)
    answers: dict[type[Request[Any]], Any] = field(default_factory=dict)
    progress: tuple[str, ...] = ()

    def answer(self, request: object, progress: Progress, _: str = "") -> Any:
        self.asked.append(request)
        for text in self.progress:
            progress(text)
        found = self.answers.get(type(request), Done())  # type: ignore[arg-type]
        if isinstance(found, OperationError):
            raise found
        return found(request) if isinstance(found, Callable) else found  # type: ignore[arg-type]


@contextmanager
def agent_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Said]:
    """Run an agent that listens on a socket in this folder."""
    monkeypatch.setattr(paths, "AGENT", folder / "agent")
    said = Said()
    with serving(said.answer):
        yield said
