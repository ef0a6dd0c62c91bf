"""The operations on this node that outlast a call. Each has its own lock, since several threads begin and end them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from .client_queue import ClientQueue
from .copies import Copies
from .failover_times import FailoverTimes
from .returns import Returns
from .stages import Drain, Rebuilding

T = TypeVar("T")


class Span:
    """A context manager that counts the threads inside it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._inside = 0

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1

    def __bool__(self) -> bool:
        """Whether any thread is inside."""
        with self._lock:
            return self._inside > 0


class Published(Generic[T]):
    """A value that one thread publishes and others read."""

    def __init__(self, value: T) -> None:
        self._lock = threading.RLock()
        self._value = value

    @property
    def value(self) -> T:
        """The latest value."""
        with self._lock:
            return self._value

    def publish(self, value: T) -> None:
        """Replace the value."""
        with self._lock:
            self._value = value


@dataclass(frozen=True, slots=True)
class UnderWay:
    """The operations of one node."""

    copies: Copies = field(default_factory=Copies)
    returns: Returns = field(default_factory=Returns)
    rebuilding: Rebuilding = field(default_factory=Rebuilding)
    """The recovery in two stages that this node is the target of."""
    drain: Drain = field(default_factory=Drain)
    """The recovery in two stages that copies this node."""
    queue: ClientQueue = field(default_factory=ClientQueue)
    """The clients of pgpool-II that wait while the primary changes."""
    starting: Span = field(default_factory=Span)
    """The agent is starting PostgreSQL itself, so the unit may start it."""
    restarting: Span = field(default_factory=Span)
    """An administrator has the standby restarted, so it takes no reads until it streams again."""
    pgpool_busy: Span = field(default_factory=Span)
    """pgpool-II waits for its failover_command and answers no request, so its last facts are used at once."""
    mute: Published[frozenset[str]] = field(default_factory=lambda: Published(frozenset()))
    """The nodes that stopped sending packets during a recovery (vigil.py)."""
    failover: FailoverTimes = field(default_factory=FailoverTimes)
    upstream: threading.RLock = field(default_factory=threading.RLock)
    """Held while the standby's primary changes, so that no thread points it at a former primary again."""
    _promotion: Span = field(default_factory=Span)
    _one_promotion: threading.Lock = field(default_factory=threading.Lock)

    @property
    def promoting(self) -> bool:
        """Whether this node is becoming a primary, or is the target of a recovery in two stages."""
        return bool(self._promotion) or self.rebuilding.under_way

    @contextmanager
    def claiming(self) -> Iterator[None]:
        """Let no other thread claim a term for this node."""
        with self._one_promotion:
            yield

    @contextmanager
    def promotion(self) -> Iterator[None]:
        """Announce in this node's facts that it is becoming a primary."""
        with self._promotion:
            yield
