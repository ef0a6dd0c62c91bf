"""The docker engine without a daemon: finding an endpoint, and copying files out of a box."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pgpool_deb.boxes import box, engines
from pgpool_deb.boxes.docker_box import DockerBox, DockerEngine
from pgpool_deb.boxes.docker_transfer import checked_names, unpack_file
from pgpool_deb.ground.cache import Cache
from pgpool_deb.ground.errors import ExitStatus, MachineError


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make an endpoint without a listener the current one."""
    host = f"unix://{tmp_path}/none.sock"
    monkeypatch.setenv("DOCKER_HOST", host)
    return host


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make an endpoint that accepts connections and never answers the current one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{server.getsockname()[1]}")
        yield


def tarred(*members: tarfile.TarInfo) -> Iterator[bytes]:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b"x" * member.size))
    data = packed.getvalue()
    return (data[start : start + 700] for start in range(0, len(data), 700))


def member(name: str, *, size: int = 3000, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type = kind
    entry.size = size if kind == tarfile.REGTYPE else 0
    entry.linkname = "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
    return entry


def test_docker_without_an_engine_names_the_endpoint(cache: Cache, nowhere: str) -> None:
    with pytest.raises(MachineError) as raised:
        engines.find_engine("docker", cache)
    assert raised.value.exit_status is ExitStatus.ENVIRONMENT
    assert raised.value.message == f"no docker engine answers at {nowhere}: No such file or directory"
    assert "--engine chroot" in raised.value.hint


def test_auto_uses_chroot_if_no_engine_answers(cache: Cache, nowhere: str) -> None:
    assert engines.find_engine("auto", cache).name == "chroot"


@pytest.mark.parametrize("endpoint", ["nowhere", "silent"])
def test_finding_no_engine_is_quick(cache: Cache, endpoint: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(endpoint)
    began = time.monotonic()
    assert DockerEngine.reachable(cache) is None
    assert time.monotonic() - began < 3


def test_an_endpoint_with_a_scheme_unknown_to_the_sdk_is_named(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "gopher://somewhere")
    with pytest.raises(MachineError, match="gopher://somewhere"):
        DockerEngine.connect(cache)


@pytest.mark.parametrize("chosen_by", ["configuration", "environment"])
def test_the_current_docker_context_is_the_endpoint(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen_by: str
) -> None:
    meta = tmp_path / "contexts" / "meta" / hashlib.sha256(b"elsewhere").hexdigest()
    meta.mkdir(parents=True)
    host = f"unix://{tmp_path}/elsewhere.sock"
    context = {"Name": "elsewhere", "Metadata": {}, "Endpoints": {"docker": {"Host": host}}}
    (meta / "meta.json").write_text(json.dumps(context))
    configuration = {"currentContext": "elsewhere"} if chosen_by == "configuration" else {}
    (tmp_path / "config.json").write_text(json.dumps(configuration))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.delenv("DOCKER_CONTEXT", raising=False)
    if chosen_by == "environment":
        monkeypatch.setenv("DOCKER_CONTEXT", "elsewhere")
    with pytest.raises(MachineError, match=str(host)):
        DockerEngine.connect(cache)


def test_a_damaged_docker_context_is_an_error_with_a_hint(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meta = tmp_path / "contexts" / "meta" / hashlib.sha256(b"elsewhere").hexdigest()
    meta.mkdir(parents=True)
    (meta / "meta.json").write_text("{")
    (tmp_path / "config.json").write_text('{"currentContext": "elsewhere"}')
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.delenv("DOCKER_CONTEXT", raising=False)
    with pytest.raises(MachineError, match="meta file for context elsewhere"):
        DockerEngine.connect(cache)


def test_a_run_that_needs_no_engine_does_not_import_the_sdk() -> None:
    code = "import sys; import pgpool_deb.runs.build_deb; sys.exit('docker' in sys.modules)"
    packaging = Path(box.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=packaging, check=False).returncode == 0


def test_names_of_package_files_are_accepted_from_a_box() -> None:
    names = ["pgpool2_4.6.1-50+deb13u1~x_amd64.deb", "recipe", "pgpool2_4.6.1.orig.tar.gz"]
    assert checked_names(names) == sorted(names)


@pytest.mark.parametrize("name", ["../dist", "a/b", "-rf", ".hidden", "a\nb", "a b", "\N{REPLACEMENT CHARACTER}", ""])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(MachineError):
        checked_names(["recipe", name])


@pytest.mark.parametrize("size", [0, 1, 512, 70_000])
def test_a_file_leaves_a_box_complete(tmp_path: Path, size: int) -> None:
    unpack_file(tarred(member("a.deb", size=size)), "a.deb", tmp_path / "a.deb")
    assert (tmp_path / "a.deb").read_bytes() == b"x" * size


@pytest.mark.parametrize(
    "members",
    [
        [],
        [member("b.deb")],
        [member("../a.deb")],
        [member("a.deb", kind=tarfile.SYMTYPE)],
        [member("a.deb", kind=tarfile.LNKTYPE)],
        [member("a.deb", kind=tarfile.DIRTYPE)],
        [member("a.deb", kind=tarfile.FIFOTYPE)],
    ],
    ids=["nothing", "another", "outside", "symbolic link", "hard link", "folder", "pipe"],
)
def test_anything_but_the_requested_file_is_refused(tmp_path: Path, members: list[tarfile.TarInfo]) -> None:
    with pytest.raises(MachineError):
        unpack_file(tarred(*members), "a.deb", tmp_path / "a.deb")
    assert list(tmp_path.iterdir()) == []


def test_more_than_the_requested_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MachineError):
        unpack_file(tarred(member("a.deb"), member("b.deb")), "a.deb", tmp_path / "a.deb")
    assert not (tmp_path / "b.deb").exists()


def test_an_incomplete_transfer_is_an_error(tmp_path: Path) -> None:
    half = list(tarred(member("a.deb", size=70_000)))[:50]
    with pytest.raises(MachineError, match="sent only a part"):
        unpack_file(half, "a.deb", tmp_path / "a.deb")


def box_whose_engine_answers(*answers: bytes) -> DockerBox:
    """Return a box; each answer is the output of one command, which succeeds."""
    left = iter(answers)
    api: Any = SimpleNamespace(
        exec_create=lambda *_, **__: {"Id": "1"},
        exec_start=lambda _: next(left),
        exec_inspect=lambda _: {"ExitCode": 0, "Running": False},
    )
    client: Any = SimpleNamespace(api=api)
    return DockerBox(client, "1", "one", ExitStack())


def test_packages_whose_names_the_engine_drops_are_looked_for_again(tmp_path: Path) -> None:
    box = box_whose_engine_answers(b"", b"a.deb\0b.d", b"/\0")
    box.get(tmp_path)


def test_packages_whose_names_never_arrive_are_not_an_empty_build(tmp_path: Path) -> None:
    box = box_whose_engine_answers(b"", b"a.deb\0", b"")
    with pytest.raises(MachineError, match="while the packages were being listed"):
        box.get(tmp_path)
