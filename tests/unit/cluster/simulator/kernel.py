"""Virtual time: programs whose tasks run one at a time, sleep without a delay, and can be paused and killed.

A task is a greenlet, so the package's own code can wait in the middle of a call. Equal seeds give equal runs.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet  # type: ignore[import-untyped,unused-ignore]

Work = Callable[[], object]


class Killed(GreenletExit):  # type: ignore[misc,unused-ignore]
    """The program that runs this code has ended; not an Exception, so that the package does not catch it."""


class Process:
    """A running program."""

    __slots__ = ("alive", "ends_on_resume", "held", "paused", "tasks")

    def __init__(self) -> None:
        self.alive = True
        self.paused = 0
        """How many faults pause it."""
        self.ends_on_resume = False
        self.held: list[Work] = []
        """The work that reached it while it was paused."""
        self.tasks: dict[Task, None] = {}

    @property
    def runs(self) -> bool:
        """Whether it is alive and not paused."""
        return self.alive and not self.paused

    def receive(self, work: Work) -> None:
        """Let the program do something now, or when it is resumed; never if it is dead."""
        if self.paused and self.alive:
            self.held.append(work)
        elif self.alive:
            work()

    def resume(self) -> None:
        """End one pause."""
        self.paused -= 1
        if self.paused == 0:
            held, self.held = self.held, []
            for work in held:
                self.receive(work)

    def kill(self) -> None:
        """End the program with all of its tasks; its `finally` blocks run, but have no effect on the outside."""
        self.alive = False
        self.held = []
        for task in list(self.tasks):
            task.end()


class Task:
    """One thread of a program."""

    __slots__ = ("_work", "process", "thread", "turn")

    def __init__(self, process: Process, work: Work, main: greenlet) -> None:
        self.process, self._work, self.turn = process, work, 0
        self.thread = greenlet(self._run, main)  # its end returns to the clock, not to the task that has spawned it

    def _run(self) -> None:
        try:
            self._work()
        finally:
            self.process.tasks.pop(self, None)

    def end(self) -> None:
        """Raise Killed in the task."""
        if self.thread.dead or self.thread is getcurrent():
            return
        if not self.thread:  # it has not begun
            self.process.tasks.pop(self, None)
            self.turn = -1
            return
        self.turn = -1
        self.thread.throw(Killed)


class Kernel:
    """The clock, and everything that is to happen."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.current: Task | None = None
        self.events = 0
        self._main = getcurrent()
        self._queue: list[tuple[float, int, Work]] = []
        self._number = 0

    def after(self, seconds: float, work: Work) -> None:
        """Do something in so many seconds."""
        self._number += 1
        heapq.heappush(self._queue, (self.now + seconds, self._number, work))

    def run(self, until: float) -> None:
        """Let time pass up to a moment."""
        queue = self._queue
        while queue and queue[0][0] <= until:
            self.now, _, work = heapq.heappop(queue)
            self.events += 1
            work()
        self.now = until

    def spawn(self, process: Process, work: Work) -> None:
        """Begin a thread of a program; a dead one begins none."""
        if not process.alive:
            return
        task = Task(process, work, self._main)
        process.tasks[task] = None
        self.after(0.0, lambda: self._resume(task, 0))

    def sleep(self, seconds: float) -> None:
        """Pause the current task."""
        task = self._sleeper()
        turn = task.turn
        self.after(max(0.0, seconds), lambda: self._resume(task, turn))
        self._switch(task)

    def ticket(self) -> Callable[[], None]:
        """Return what wakes the current task from the `wait` that follows; later calls do nothing."""
        task = self._sleeper()
        turn = task.turn
        return lambda: self._resume(task, turn)

    def wait(self, seconds: float | None) -> None:
        """Pause the current task until its ticket is used, or for so many seconds."""
        task = self._sleeper()
        if seconds is not None:
            turn = task.turn
            self.after(max(0.0, seconds), lambda: self._resume(task, turn))
        self._switch(task)

    def _sleeper(self) -> Task:
        task = self.current
        if task is None and getcurrent() is not self._main:
            raise Killed  # the `finally` of a task that has been ended
        assert task is not None, "only a task can wait"
        if not task.process.alive:
            raise Killed
        return task

    def _switch(self, task: Task) -> None:
        self._main.switch()
        if not task.process.alive:
            raise Killed

    def _resume(self, task: Task, turn: int) -> None:
        if task.turn != turn or not task.process.alive:
            return
        if task.process.paused:
            task.process.held.append(lambda: self._resume(task, turn))
            return
        if self.current is not None:  # one task wakes another
            self.after(0.0, lambda: self._resume(task, turn))
            return
        task.turn += 1
        self.current = task
        try:
            task.thread.switch()
        finally:
            self.current = None


class Lock:
    """A stand-in for threading.Lock and RLock."""

    __slots__ = ("_depth", "_kernel", "_owner", "_waiting")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._owner: Task | None = None
        self._depth = 0
        self._waiting: list[Work] = []

    @property
    def owner(self) -> Task | None:
        """The task that holds it."""
        return self._owner

    def __enter__(self) -> None:
        me = self._kernel.current
        while self._owner is not None and self._owner is not me:
            self._waiting.append(self._kernel.ticket())
            self._kernel.wait(None)
        self._owner = me
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._owner = None
            waiting, self._waiting = self._waiting, []
            for wake in waiting:
                self._kernel.after(0.0, wake)


class Time:
    """A stand-in for the module `time`."""

    def __init__(self, kernels: list[Kernel]) -> None:
        self._kernels = kernels

    def monotonic(self) -> float:
        return self._kernels[0].now

    time = monotonic

    def sleep(self, seconds: float) -> None:
        self._kernels[0].sleep(seconds)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the simulator's time has no {name}")
