"""Encode requests and answers as lines of JSON, with the keys that a connection adds to protocol.py.

A request has an `id`, and every line of its answer has the same `id`. The last line has `done`, the answer, or `error`
with its `hint` and exit `status`. Earlier lines have `progress`. A line without these keys is an empty answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ..ground import paths, plain
from ..ground.errors import ClusterError, ExitStatus, OperationError, UsageError
from . import protocol
from .protocol import VERSION, VERSIONS_DIFFER, Request

A = TypeVar("A")
_QUOTED_BYTES = 120
"""Bytes of an invalid line that an error quotes."""


class RemoteError(OperationError):
    """A refusal or failure that another node answered, with the exit status that it has there."""

    def __init__(self, message: str, *, hint: str, status: int) -> None:
        super().__init__(message, hint=hint)
        self.exit_status = ExitStatus(status)


class OddAnswerError(OperationError):
    """Another node sent something other than an answer to the request."""


# Requests


def request(asked: Request[Any], number: int | None = None) -> bytes:
    """Return the line of a request; `number` is its id."""
    numbered = {} if number is None else {"id": number}
    return _line({**protocol.encode(asked), "version": VERSION, **numbered})


@dataclass(frozen=True, slots=True)
class Asked:
    """A received request. `parse` reads only `verb` and `number`; `request` reads the rest."""

    verb: str
    number: int | None
    _values: Mapping[str, object]

    @classmethod
    def parse(cls, line: bytes) -> Asked:
        """Read a line; raises ValueError or RecursionError if it is not a request."""
        values = json.loads(line)
        if not isinstance(values, dict):
            raise ValueError("not a request")  # noqa: TRY004 - the same error as for invalid JSON
        number = values.pop("id", None)
        shown = plain.shown(values)
        return cls(str(shown.get("do")), number if type(number) is int else None, shown)

    def request(self) -> Request[Any]:
        """Return the request; raises UsageError for a request that no version of this package sends."""
        if not _is_version(self._values.get("version", 1)):
            raise UsageError(f"request {self.verb!r} has no valid version", hint=VERSIONS_DIFFER)
        return protocol.decode(self._values)


def _is_version(value: object) -> bool:
    return type(value) is int and value >= 1


# Answers


def done(answer: object, number: int | None) -> bytes:
    """Return the last line of an answer."""
    return _line({"done": protocol.encode_answer(answer), "version": VERSION, "id": number})


def refusal(error: ClusterError, number: int | None) -> bytes:
    """Return the last line of a refused or failed request, with the error."""
    values = {"error": error.message, "hint": error.hint, "status": int(error.exit_status)}
    return _line({**values, "version": VERSION, "id": number})


def fault(reason: str, hint: str, number: int | None) -> bytes:
    """Return the last line of a request that failed because of a fault in the agent; it has no exit status."""
    return _line({"error": reason, "hint": hint, "version": VERSION, "id": number})


def progress(text: str, number: int | None) -> bytes:
    """Return a line that reports progress, before the last line."""
    return _line({"progress": text, "id": number})


def _line(values: Mapping[str, object]) -> bytes:
    return json.dumps(values).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of an answer. `number`: the request's id, or None if the line is about the connection, which then ends.

    `progress` is None in the last line of an answer. Texts are as received; apply plain.shown() before showing them.
    """

    number: int | None
    progress: str | None
    error: str | None
    version: int
    _values: Mapping[str, object]

    @classmethod
    def parse(cls, text: bytes) -> Line:
        """Read a line; raises ValueError or RecursionError if it is not a line of an answer."""
        values = _parsed(text)
        if not isinstance(values, dict):
            raise ValueError("not a mapping")  # noqa: TRY004 - the same error as for invalid JSON
        number, version = values.get("id"), values.get("version", 1)
        if not _is_version(version):
            raise ValueError("an answer without a valid version")
        report, error, _ = (_text(values, name) for name in ("progress", "error", "hint"))
        return cls(number if type(number) is int else None, report, error, version, values)

    def answer(self, asked: Request[A], node: str) -> A:
        """Return the answer of `node` to a request.

        Raises RemoteError with the other node's own message and hint, and OddAnswerError if the answer does not match
        the request.
        """
        try:
            values = plain.shown(self._values)
        except RecursionError as error:
            reason = "its answer is nested too deeply"
            raise RemoteError(reason, hint="pgpoolctl status", status=ExitStatus.FAILED) from error
        if "error" in values:
            known = {str(int(one)): int(one) for one in ExitStatus}
            status = known.get(str(values.get("status")), ExitStatus.FAILED)
            raise RemoteError(values["error"], hint=values.get("hint", "pgpoolctl status"), status=status)
        found = values.get("done")
        try:
            return protocol.decode_answer(asked, found if isinstance(found, dict) else {})
        except ValueError as error:
            reason = f"{node} (protocol version {self.version}) sent an invalid answer to {asked.do!r}: {error}"
            hint = f"journalctl -u {paths.UNIT}, on {node}; install the same version of pgpool2-cluster on every node"
            raise OddAnswerError(reason, hint=hint) from error


def _text(values: Mapping[str, object], name: str) -> str | None:
    """Return the text of key `name`, or None if the line lacks it; raises ValueError if the value is not a text."""
    value = values.get(name, "")
    if not isinstance(value, str):
        raise ValueError(f"{name} is not a text")  # noqa: TRY004
    return value if name in values else None


def _parsed(text: bytes) -> Any:  # noqa: ANN401 - JSON
    """Return the JSON of a line; raises ValueError, which quotes the first 120 bytes of an invalid line."""
    try:
        return json.loads(text)
    except ValueError as error:
        said = plain.shown(text[:_QUOTED_BYTES].decode(errors="replace").strip())
        raise ValueError(f"'{said}'") from error
