"""A repository is read from a folder or a URL, and every way in which that fails has a message of its own."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
import urllib3

from pgpool_deb.ground import web
from pgpool_deb.ground.errors import MachineError, UsageError
from pgpool_deb.repository import places
from pgpool_deb.repository.inside import Lack
from pgpool_deb.repository.places import Address, Folder

URL = "https://packages.example.org/pgpool"
SUM = hashlib.sha256(b"data").hexdigest()
Serve = Callable[..., list[str]]


@pytest.fixture(autouse=True)
def own() -> None:
    """No test of this module signs anything."""


class BrokenBody:
    """A body whose connection breaks after the first block."""

    def stream(self, _size: int, **_: object) -> Iterator[bytes]:
        yield b"da"
        raise urllib3.exceptions.ProtocolError("Connection broken: reset")


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    """A function that sets the web server's answers by path, 404 for the others, and returns the requested URLs."""

    def serve(files: dict[str, object], status: int = 200, reason: str = "OK") -> list[str]:
        requested: list[str] = []

        def get(address: str, *, timeout: float, headers: dict[str, str]) -> requests.Response:
            requested.append(address)
            body = files.get(address.removeprefix(f"{URL}/"))
            if isinstance(body, Exception):
                raise body
            answer = requests.Response()
            answer.status_code, answer.reason = (404, "Not Found") if body is None else (status, reason)
            answer.raw = io.BytesIO(body) if isinstance(body, bytes) else body
            return answer

        monkeypatch.setattr(web, "get", get)
        return requested

    return serve


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A repository with two suites and a stray file in dists/."""
    for name in ("trixie", "trixie-testing"):
        (tmp_path / "repo" / "dists" / name).mkdir(parents=True)
    (tmp_path / "repo" / "dists" / "stray").write_text("")
    (tmp_path / "repo" / "file").write_bytes(b"data")
    (tmp_path / "letter").write_text("dear")
    (tmp_path / "repo" / "way-out").symlink_to(tmp_path / "letter")
    return Folder(tmp_path / "repo")


def test_the_suites_of_a_folder_are_the_folders_in_dists(folder: Folder) -> None:
    assert folder.suites() == ["trixie", "trixie-testing"]
    assert folder.names("dists") == ["stray", "trixie", "trixie-testing"]


def test_a_folder_without_suites_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no suites in dists/") as raised:
        Folder(tmp_path).suites()
    assert "check the path" in raised.value.hint


def test_a_file_of_a_folder_is_read_and_hashed(folder: Folder) -> None:
    assert folder.read("file") == b"data"
    assert folder.sum("file", 4) == (SUM, 4)


def test_a_file_of_another_size_is_not_hashed(folder: Folder) -> None:
    assert folder.sum("file", 3) == ("", 4)


@pytest.mark.parametrize(
    ("path", "lack"), [("missing", Lack.MISSING), ("way-out", Lack.OUTSIDE), ("dists", Lack.IRREGULAR)]
)
def test_a_path_that_is_no_file_of_the_folder_is_not_followed(folder: Folder, path: str, lack: Lack) -> None:
    assert (folder.read(path), folder.sum(path, 4)) == (lack, lack)


def test_a_file_that_cannot_be_hashed_is_the_machines_fault(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def sha256_of(path: Path) -> str:
        raise PermissionError(13, os.strerror(13), str(path))

    monkeypatch.setattr(places, "sha256_of", sha256_of)
    with pytest.raises(MachineError, match="file: Permission denied") as raised:
        folder.sum("file", 4)
    assert "read permission" in raised.value.hint


def test_the_suites_of_a_url_are_those_that_its_keyring_folder_lists(serve: Serve) -> None:
    requested = serve({"keyring/suites": b"trixie\ntrixie-testing\n"})
    assert Address(URL).suites() == ["trixie", "trixie-testing"]
    assert requested == [f"{URL}/keyring/suites"]


@pytest.mark.parametrize(
    ("files", "message", "hint"),
    [
        ({}, f"{URL} has no keyring/suites", "publish"),
        ({"keyring/suites": b"<html>Welcome!</html>"}, f"{URL}/keyring/suites is not a list of suites", "HTML"),
        ({"keyring/suites": b"\n"}, f"{URL}/keyring/suites is not a list of suites", "HTML"),
        ({"keyring/suites": b"../etc"}, f"{URL}/keyring/suites is not a list of suites", "HTML"),
    ],
    ids=("missing", "a page", "empty", "a path"),
)
def test_a_url_that_is_no_repository_of_ours_is_wrong_usage(
    serve: Serve, files: dict[str, object], message: str, hint: str
) -> None:
    serve(files)
    with pytest.raises(UsageError) as raised:
        Address(URL).suites()
    assert raised.value.message == message
    assert hint in raised.value.hint


def test_a_missing_file_of_a_url_is_no_exception(serve: Serve) -> None:
    serve({})
    assert (Address(URL).read("x"), Address(URL).sum("x", 4)) == (Lack.MISSING, Lack.MISSING)


def test_a_url_lists_no_folders(serve: Serve) -> None:
    requested = serve({})
    assert Address(URL).names("pool") is None  # type: ignore[func-returns-value]
    assert requested == []


def test_a_path_is_quoted_in_its_url(serve: Serve) -> None:
    requested = serve({})
    Address(URL).read("pool/a+b c.deb")
    assert requested == [f"{URL}/pool/a%2Bb%20c.deb"]


def test_a_file_of_a_url_is_hashed(serve: Serve) -> None:
    serve({"a.deb": b"data"})
    assert Address(URL).sum("a.deb", 4) == (SUM, 4)


def test_a_file_that_is_too_long_is_read_only_a_block_beyond_its_size(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "_BLOCK", 4)
    body = io.BytesIO(b"12345678" * 100)
    serve({"a.deb": body})
    assert Address(URL).sum("a.deb", 6) == (hashlib.sha256(b"12345678").hexdigest(), 8)
    assert body.tell() == 8


def test_an_endless_index_is_refused(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "LARGEST_INDEX", 1 << 20)
    monkeypatch.setattr(places, "_BLOCK", 1 << 19)
    body = io.BytesIO(bytes(4 << 20))
    serve({"index": body})
    with pytest.raises(MachineError, match="index is larger than 1 MiB") as raised:
        Address(URL).read("index")
    assert "check the URL" in raised.value.hint
    assert body.tell() < 2 << 20, "the rest is not downloaded"


def test_a_refusing_server_is_named_with_its_status(serve: Serve) -> None:
    serve({"x": b""}, 503, "Service Unavailable")
    with pytest.raises(MachineError, match=f"{URL}/x: 503 Service Unavailable") as raised:
        Address(URL).read("x")
    assert "web server's log" in raised.value.hint


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            requests.ConnectionError("HTTPSConnectionPool: [Errno 111] Connection refused')"),
            "[Errno 111] Connection refused",
        ),
        (BrokenBody(), "reset"),
    ],
    ids=("no answer", "broken"),
)
def test_a_server_that_fails_is_the_machines_fault(serve: Serve, body: object, reason: str) -> None:
    serve({"x": body})
    with pytest.raises(MachineError) as raised:
        Address(URL).read("x")
    assert raised.value.message == f"{URL}/x: {reason}"
    assert raised.value.hint == "is the web server up?"


def test_a_url_of_another_kind_is_wrong_usage(serve: Serve) -> None:
    requested = serve({})
    with pytest.raises(UsageError, match=r"ftp://x is not a URL of a web server") as raised:
        Address("ftp://x").read("y")
    assert "https://" in raised.value.hint
    assert requested == []
