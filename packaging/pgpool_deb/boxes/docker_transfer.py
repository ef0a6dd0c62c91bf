"""Transfers to and from containers: files as tar streams, and the output of the commands that run there."""

from __future__ import annotations

import queue
import re
import shlex
import shutil
import tarfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import requests

from pgpool_deb.ground import command
from pgpool_deb.ground.command import Runner
from pgpool_deb.ground.errors import MachineError

from .docker_endpoint import GONE

CHUNK = 1 << 20
BUILDER_ID = 1000
_DRAIN_SECONDS = 0.02
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+~_:-]*")


def owned_by_builder(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Return the entry of a tar with the build user as its owner."""
    entry.uid = entry.gid = BUILDER_ID
    entry.uname = entry.gname = ""
    return entry


def checked_names(names: Iterable[str]) -> list[str]:
    """Return the names of files in a box, sorted; raises MachineError for a name that no package build produces."""
    names = sorted(names)
    for name in names:
        if not _FILE_NAME.fullmatch(name):
            raise MachineError(
                f"the build left a file with the name {name!r}", hint="read the log; no file of this build was kept"
            )
    return names


def unpack_file(data: Iterable[bytes], name: str, destination: Path) -> None:
    """Write the regular file `name` of the tar `data` to `destination`; raises MachineError for any other content."""
    again = "run the same command again"
    try:
        with tarfile.open(fileobj=_Reader(iter(data)), mode="r|") as archive:  # type: ignore[call-overload]
            member = archive.next()
            content = archive.extractfile(member) if member and member.isreg() and member.name == name else None
            if content is None:
                raise MachineError(f"docker sent something other than the file {name}", hint=again)
            with destination.open("wb") as file:
                shutil.copyfileobj(content, file, CHUNK)
            if archive.next() is not None:
                raise MachineError(f"docker sent more than the file {name}", hint=again)
    except tarfile.ReadError as error:
        raise MachineError(f"docker sent only a part of the file {name}", hint=again) from error


class _Reader:
    """Presents chunks of bytes as a read-only file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._pending = b""

    def read(self, size: int) -> bytes:
        while len(self._pending) < size and (chunk := next(self._chunks, b"")):
            self._pending += chunk
        data, self._pending = self._pending[:size], self._pending[size:]
        return data


class Chunks:
    """Output of an exec, read by a thread so that a wait for it can time out on any transport."""

    def __init__(self, answer: requests.Response) -> None:
        self._answer = answer
        self._queue: queue.Queue[bytes | None] = queue.Queue(maxsize=256)
        self._thread = threading.Thread(target=self._read, daemon=True, name="docker-output")
        self._thread.start()

    def get(self, seconds: float) -> bytes | None:
        """Return the next chunk, None at the end; raises queue.Empty after `seconds`."""
        return self._queue.get(timeout=seconds)

    def close(self) -> None:
        """Wait up to 5 seconds for the thread to end, which it does when the exec has ended or the engine is gone."""
        deadline = time.monotonic() + 5
        while self._thread.is_alive() and time.monotonic() < deadline:
            with suppress(queue.Empty):
                self._queue.get(timeout=_DRAIN_SECONDS)

    def _read(self) -> None:
        """Parse the frames (Docker Engine API, "Attach to a container", stream format)."""
        with suppress(*GONE, OSError, ValueError):  # the connection broke; `DockerBox._status` reports a lost engine
            while len(header := self._answer.raw.read(8)) == 8:
                self._queue.put(self._answer.raw.read(int.from_bytes(header[4:], "big")))
        self._queue.put(None)


def lines(chunks: Iterator[bytes]) -> Iterator[str]:
    """Split output into lines; the last one may lack its line feed."""
    pending = b""
    for chunk in chunks:
        *lines, pending = (pending + chunk).split(b"\n")
        yield from (line.decode("utf-8", "replace") for line in lines)
    if pending:
        yield pending.decode("utf-8", "replace")


@contextmanager
def output_of(argv: Sequence[str], runner: Runner) -> Iterator[Iterator[bytes]]:
    """Run `argv` and yield its standard output in chunks; its standard error goes to the runner's log.

    The chunks end with MachineError if it fails, so that their consumer never mistakes a part for the whole.
    """
    with runner.log.open("a", encoding="utf-8") as log:
        log.write(f"$ {shlex.join(argv)} | docker import - ...\n")
    process = command.start(["sh", "-c", 'log=$0; exec "$@" 2>>"$log"', str(runner.log), *argv])
    assert process.stdout is not None  # noqa: S101 - for the type checker

    def chunks(pipe: IO[bytes]) -> Iterator[bytes]:
        while chunk := pipe.read(CHUNK):
            runner.stop.check()
            yield chunk
        if (status := process.wait()) != 0:
            raise MachineError(f"a root could not be packed: tar ended with status {status}", hint=f"read {runner.log}")

    try:
        yield chunks(process.stdout)
    finally:
        command.kill_group(process)
