"""The watch over threads reports an attribute that two threads write without a lock, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import ModuleType

import pytest
from tests.cluster.owners import FAULT, Owners

reported: list[str] = []


@pytest.fixture
def made() -> Callable[[type], None]:
    """Watch a class."""
    reported.clear()
    owners = Owners(reported.append)

    def watch(cls: type) -> None:
        module = ModuleType(cls.__module__)
        setattr(module, cls.__name__, cls)
        assert owners.watch(module) == 1

    return watch


def in_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work, name="second")
    thread.start()
    thread.join()


def test_an_attribute_that_two_threads_write_is_reported_once(made: Callable[[type], None]) -> None:
    @dataclass(slots=True)
    class Bare:
        value: int = 0

    made(Bare)
    one = Bare()
    one.value = 1
    in_thread(lambda: setattr(one, "value", 2))
    in_thread(lambda: setattr(one, "value", 3))
    assert reported == [f"{FAULT}: Bare.value, by MainThread and second"]


@pytest.mark.parametrize("make", [threading.Lock, threading.RLock, threading.Condition])
def test_writes_under_a_common_lock_are_permitted(
    made: Callable[[type], None], make: Callable[[], AbstractContextManager[object]]
) -> None:
    class Locked:
        def __init__(self) -> None:
            self.value = 0
            self.lock, self.other = make(), make()

        def put(self, value: int, *, other: bool = False) -> None:
            with self.other if other else self.lock:
                self.value = value

    made(Locked)
    one = Locked()
    one.put(1)
    in_thread(lambda: one.put(2))
    one.put(3)
    assert reported == []
    in_thread(lambda: one.put(4, other=True))
    assert len(reported) == 1, "another lock permits nothing"


def test_a_lock_that_only_the_second_thread_holds_permits_nothing(made: Callable[[type], None]) -> None:
    class Half:
        def __init__(self) -> None:
            self.value = 0
            self.lock = threading.Lock()

        def put(self) -> None:
            with self.lock:
                self.value = 1

    made(Half)
    one = Half()
    one.value = 1
    in_thread(one.put)
    assert len(reported) == 1


def test_an_object_may_be_handed_to_another_thread(made: Callable[[type], None]) -> None:
    class Handed:
        def __init__(self) -> None:
            self.value = 0

    made(Handed)
    one = Handed()
    in_thread(lambda: setattr(one, "value", 1))
    assert reported == []
    one.value = 2
    assert len(reported) == 1
