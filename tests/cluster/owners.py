"""Run the agent, and report each attribute that two threads write without a common lock.

This program runs on a host instead of `pgpoolctl converge`. After its construction, an object's attribute belongs to
the first thread that writes it. As soon as a second thread writes it, all writes must hold one lock in common
(S. Savage and others, Eraser, 1997). The locks are those that objects of the package have as attributes.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

FAULT = "two threads write without a common lock"
_LOCKS = (type(threading.Lock()), type(threading.RLock()))
_held = threading.local()


def _mine() -> list[int]:
    """Return the ids of the locks that the calling thread holds; one that it holds twice is there twice."""
    if not hasattr(_held, "locks"):
        _held.locks = []
    found: list[int] = _held.locks
    return found


class Lock:
    """A lock that records which thread holds it."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        taken = bool(self._lock.acquire(blocking, timeout))
        if taken:
            _mine().append(id(self))
        return taken

    def release(self) -> None:
        self._lock.release()
        if id(self) in _mine():  # a Lock may be released by another thread
            _mine().remove(id(self))

    def locked(self) -> bool:
        return bool(self._lock.locked())

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Owners:
    """The threads that write the attributes of watched objects, and the locks that they hold while they do."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._lock = threading.Lock()
        self._writers: dict[tuple[int, str], tuple[int, str]] = {}
        """The last thread that wrote an attribute."""
        self._common: dict[tuple[int, str], set[int]] = {}
        """The locks that all writes have had in common since a second thread wrote; before, those of the last write."""
        self._shared: set[tuple[int, str]] = set()
        self._building: set[int] = set()
        self._reported: set[str] = set()

    def watch(self, module: ModuleType) -> int:
        """Watch the module's classes that have attributes to write, and return their number."""
        found = [one for one in vars(module).values() if isinstance(one, type) and one.__module__ == module.__name__]
        watched = [one for one in found if not issubclass(one, BaseException | tuple | str | int)]
        for one in watched:
            self._wrap(one, constant=_is_constant(one))
        return sum(not _is_constant(one) for one in watched)

    def _wrap(self, cls: Any, *, constant: bool) -> None:
        build, write = cls.__init__, cls.__setattr__

        def construct(this: object, *words: object, **named: object) -> None:
            outermost = self._begin(this)
            try:
                build(this, *words, **named)
            finally:
                if outermost:
                    _record_locks(this)
                    self._end(this)

        def note(this: object, name: str, value: object) -> None:
            self._check(this, name)
            write(this, name, value)

        cls.__init__ = construct
        if not constant:
            cls.__setattr__ = note

    def _begin(self, this: object) -> bool:
        with self._lock:
            if id(this) in self._building:
                return False
            for key in [key for key in self._writers if key[0] == id(this)]:  # of an object that had this id before
                del self._writers[key], self._common[key]
                self._shared.discard(key)
            self._building.add(id(this))
            return True

    def _end(self, this: object) -> None:
        with self._lock:
            self._building.discard(id(this))

    def _check(self, this: object, name: str) -> None:
        mine, held, key = (threading.get_ident(), threading.current_thread().name), set(_mine()), (id(this), name)
        with self._lock:
            if id(this) in self._building:
                return
            before = self._writers.get(key, mine)
            self._writers[key] = mine
            if before[0] != mine[0]:
                self._shared.add(key)
            self._common[key] = self._common[key] & held if key in self._shared else held
            text = f"{type(this).__name__}.{name}"
            if key not in self._shared or self._common[key] or text in self._reported:
                return
            self._reported.add(text)
        self._report(f"{FAULT}: {text}, by {before[1]} and {mine[1]}")


def _record_locks(this: object) -> None:
    """Replace the locks of a new object by ones that record which thread holds them."""
    names = [name for cls in type(this).__mro__ for name in getattr(cls, "__slots__", ())]
    for name in {*getattr(this, "__dict__", {}), *names}:
        value = getattr(this, name, None)
        if isinstance(value, _LOCKS):
            object.__setattr__(this, name, Lock(value))
        elif isinstance(value, threading.Condition):  # its own lock asks a Lock whether it is held, not an RLock
            object.__setattr__(this, name, threading.Condition(Lock(threading.Lock())))  # type: ignore[arg-type]


def _is_constant(cls: type) -> bool:
    parameters = getattr(cls, "__dataclass_params__", None)
    return bool(parameters is not None and parameters.frozen)


def main() -> int:
    """Run the agent with every class of its package under watch."""
    sys.path.insert(0, "/usr/share/pgpool2-cluster")
    package = importlib.import_module("pgpool_cluster")
    owners = Owners(lambda text: print(f"<3>{text}", flush=True))
    names = [module.name for module in pkgutil.walk_packages(package.__path__, "pgpool_cluster.")]
    watched = sum(owners.watch(importlib.import_module(name)) for name in names)
    print(f"{watched} classes are watched", flush=True)
    command_line = next(name for name in names if name.endswith(".command_line"))
    return int(importlib.import_module(command_line).main(("converge",)))


if __name__ == "__main__":
    sys.exit(main())
