"""Run the agent, and report each attribute that two threads write without a lock.

This program runs on a host instead of `pgpoolctl converge`. After its construction, an object's attribute belongs to
the first thread that writes it. Another thread may write it only while it holds a lock of the same object, or the
agent's `acting`.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

FAULT = "two threads write without a lock"


class Owners:
    """The threads that write the attributes of watched objects."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._lock = threading.Lock()
        self._owners: dict[tuple[int, str], tuple[int, str]] = {}
        self._building: dict[int, int] = {}
        """The thread that constructs an object, by the object's id."""
        self._reported: set[str] = set()
        self.acting: Any = None
        """A lock that permits every write."""

    def watch(self, module: ModuleType) -> int:
        """Watch the module's classes that have attributes to write, and return their number."""
        found = [one for one in vars(module).values() if isinstance(one, type) and one.__module__ == module.__name__]
        watched = [one for one in found if not _is_constant(one)]
        for one in watched:
            self._wrap(one)
        return len(watched)

    def _wrap(self, cls: Any) -> None:
        build, write = cls.__init__, cls.__setattr__

        def construct(this: object, *words: object, **named: object) -> None:
            outermost = self._begin(this)
            try:
                build(this, *words, **named)
            finally:
                if outermost:
                    self._end(this)
            if cls.__name__ == "Agent":
                self.acting = this.acting  # type: ignore[attr-defined]

        def note(this: object, name: str, value: object) -> None:
            self._check(this, name)
            write(this, name, value)

        cls.__init__, cls.__setattr__ = construct, note

    def _begin(self, this: object) -> bool:
        with self._lock:
            if id(this) in self._building:
                return False
            for key in [key for key in self._owners if key[0] == id(this)]:
                del self._owners[key]  # of an object that had this id before
            self._building[id(this)] = threading.get_ident()
            return True

    def _end(self, this: object) -> None:
        with self._lock:
            del self._building[id(this)]

    def _check(self, this: object, name: str) -> None:
        mine = threading.get_ident(), threading.current_thread().name
        held = _owned(self.acting) or any(_owned(value) for value in _values(this))
        with self._lock:
            if self._building.get(id(this)) == mine[0] or held:
                return
            owner = self._owners.setdefault((id(this), name), mine)
            text = f"{type(this).__name__}.{name}"
            if owner[0] == mine[0] or text in self._reported:
                return
            self._reported.add(text)
        self._report(f"{FAULT}: {text}, by {owner[1]} and {mine[1]}")


def _is_constant(cls: type) -> bool:
    parameters = getattr(cls, "__dataclass_params__", None)
    return issubclass(cls, BaseException | tuple | str | int) or bool(parameters is not None and parameters.frozen)


def _values(this: object) -> list[object]:
    names = [name for cls in type(this).__mro__ for name in getattr(cls, "__slots__", ())]
    return [*getattr(this, "__dict__", {}).values(), *(getattr(this, name, None) for name in names)]


def _owned(lock: object) -> bool:
    """Return whether the calling thread holds an RLock or a Condition."""
    owned = getattr(lock, "_is_owned", None)
    return owned is not None and bool(owned())


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
