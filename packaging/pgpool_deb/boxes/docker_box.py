"""The docker engine: boxes are containers of any Docker-API endpoint, local or remote.

A root is imported as an image once, under its key. A box is a container of that image without a network. The box's
first process reads from this process, so the box stops when the tool ends, even by kill -9. The next start removes
the boxes of dead runs. A box that is kept after a failure is stopped and called NAME-failed.

Only `engines.find_engine` imports this module: the SDK is slow to import.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import re
import shlex
import socket
import tarfile
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path

from docker import DockerClient
from docker.errors import APIError, NotFound
from docker.models.volumes import Volume

from pgpool_deb.ground import compiler_caches, namespaces
from pgpool_deb.ground.cache import Cache
from pgpool_deb.ground.command import CommandFailed, CommandStalled, Runner
from pgpool_deb.ground.errors import MachineError, UsageError

from .box import in_build
from .docker_endpoint import (
    FAILURES,
    asking,
    connected,
    connection,
    endpoint,
    endpoint_options,
    reason,
    refused,
    went_away,
)
from .docker_transfer import CHUNK, Chunks, checked_names, lines, output_of, owned_by_builder, unpack_file
from .roots import MAX_AGE_SECONDS, ROOT_USER, Root, entering

IMAGE = "pgpool-deb/root"
PROVED = "/proved"
"""Where a box sees the compiler cache of proved releases."""
_BEGIN_CACHE = f"""
[ ! -d {PROVED} ] || [ -e /cache/.begun ] || {{ cp -a --remove-destination {PROVED}/. /cache && : >/cache/.begun; }}
"""
LABEL = "pgpool-deb"
USER = "builder"
_FAILED_SUFFIX = "-failed"
_LISTINGS = 3
_POLL_SECONDS = 0.2
_SIGNAL_STATUS = 128


@dataclass(frozen=True, slots=True)
class DockerBox:
    """A box that is a container; `lifeline` holds the standard input of its first process open."""

    client: DockerClient
    container: str
    name: str
    lifeline: ExitStack
    endpoint: str = ""

    def put(self, source: Path) -> None:
        """Copy the contents of the folder `source` into /build."""
        with tempfile.TemporaryFile(dir=source.parent) as packed, asking("copying the source into the box"):
            with tarfile.open(fileobj=packed, mode="w") as archive:
                for path in sorted(source.iterdir()):
                    archive.add(path, path.name, filter=owned_by_builder)
            packed.seek(0)
            self.client.api.put_archive(self.container, "/build", packed)

    def run(self, argv: Sequence[str], runner: Runner) -> None:
        """Run `argv` in /build as the user builder; raises what Runner.run raises, MachineError if docker fails."""
        runner.stop.check()
        words = in_build(argv)
        tail: deque[str] = deque(maxlen=200)
        with runner.log.open("a", encoding="utf-8", errors="replace") as log:
            log.write(f"$ {shlex.join(['docker', 'exec', '--user', USER, self.name, *words])}\n")
            log.flush()
            with asking("a command ran in the box"):
                # One stream, because docker's two do not preserve the order of a compiler's output.
                merged = [*in_build([]), "sh", "-c", 'exec "$@" 2>&1', "sh", *argv]
                job: str = self.client.api.exec_create(self.container, merged, user=USER)["Id"]
                with (
                    connection(self.client, f"exec/{job}/start", json={"Detach": False, "Tty": False}) as answer,
                    closing(Chunks(answer)) as chunks,
                ):
                    try:
                        for line in lines(self._until_silent(argv, chunks, runner, tail)):
                            tail.append(line)
                            runner.take(line, log)
                    except BaseException:
                        self._kill()
                        raise
                status = self._status(job)
        if status != 0:
            raise CommandFailed(argv, status, tail)

    def get(self, destination: Path) -> None:
        """Copy the regular files directly in /build to the folder `destination`."""
        with asking("copying the packages out of the box"):
            for name in checked_names(self._listing()):
                data, _ = self.client.api.get_archive(self.container, f"/build/{name}", chunk_size=CHUNK)
                unpack_file(data, name, destination / name)

    def shell(self) -> list[str]:
        """Stop the box, keep it, and return the command that starts it with a shell in /build."""
        with suppress(*FAILURES):  # a failing engine has been reported; the command works once it is back
            self._kill()
            self.client.api.rename(self.container, f"{self.name}{_FAILED_SUFFIX}")
        self.lifeline.close()
        docker = shlex.join(["docker", *endpoint_options(self.endpoint)])
        inside = shlex.join(["exec", "-it", "--user", USER, self.container, *in_build(["bash"])])
        script = (
            "command -v docker >/dev/null || { echo 'the docker client is missing' >&2; "
            "echo 'hint: apt-get install docker-cli (Debian 12: docker.io)' >&2; exit 3; }; "
            f"{docker} start {self.container} >/dev/null && exec {docker} {inside}"
        )
        return ["sh", "-c", script]

    def remove(self) -> None:
        """Remove the box and everything in it."""
        with self.lifeline, asking("removing the box"), suppress(NotFound):
            self.client.api.remove_container(self.container, force=True)

    def prepare(self) -> None:
        """Give /build and /cache to the build user; a new /cache starts as a copy of the one of proved releases.

        The build user copies it, because the existing contents of /cache are untrusted.
        """
        self._set_up(["install", "-d", "-o", USER, "-g", USER, "/build", "/cache"], "root")
        self._set_up(["sh", "-c", _BEGIN_CACHE], USER)

    def _set_up(self, words: Sequence[str], user: str) -> None:
        job = self.client.api.exec_create(self.container, words, user=user)["Id"]
        answer = self.client.api.exec_start(job)
        if (status := self._status(job)) != 0:
            raise MachineError(
                f"the box cannot be set up: {answer.decode(errors='replace').strip() or status}",
                hint=f"docker image rm {IMAGE} with the tag that docker image ls shows; the next run imports it again",
            )

    def _listing(self) -> list[str]:
        """Return the names of all regular files directly in /build.

        The list ends with "/", because an engine under load drops output without an error (moby issue 27289).
        """
        find = r"find /build -mindepth 1 -maxdepth 1 -type f -printf '%f\0' && printf '/\0'"
        for _ in range(_LISTINGS):
            job = self.client.api.exec_create(self.container, ["sh", "-c", find], user=USER, stderr=False)["Id"]
            listing = self.client.api.exec_start(job).decode("utf-8", "replace")
            if self._status(job) != 0:
                break
            if listing.endswith("/\0"):
                return listing.split("\0")[:-2]
        raise went_away("the packages were being listed")

    def _until_silent(
        self, argv: Sequence[str], chunks: Chunks, runner: Runner, tail: Iterable[str]
    ) -> Iterator[bytes]:
        last = time.monotonic()
        while True:
            runner.stop.check()
            try:
                chunk = chunks.get(_POLL_SECONDS)
            except queue.Empty:
                if time.monotonic() - last > runner.stall:
                    raise CommandStalled(argv, -1, list(tail)) from None
                continue
            if chunk is None:
                return
            last = time.monotonic()
            yield chunk

    def _status(self, job: str) -> int:
        """Return the exit status of an exec whose output has ended; raises MachineError if the box is gone."""
        deadline = time.monotonic() + 10
        while (state := self.client.api.exec_inspect(job))["Running"] or state["ExitCode"] is None:
            if time.monotonic() > deadline:
                raise went_away("a command ran in the box")
            time.sleep(0.05)
        status = int(state["ExitCode"])
        if status > _SIGNAL_STATUS and self._stops():
            raise went_away("a command ran in the box", cause="the box was stopped from outside")
        return status

    def _stops(self) -> bool:
        """Return whether the box has stopped or stops within 2 seconds; its processes die before the box stops."""
        deadline = time.monotonic() + 2
        while running := self.client.api.inspect_container(self.container)["State"]["Running"]:
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        return not running

    def _kill(self) -> None:
        """End every process of the box, which can be started again."""
        with suppress(*FAILURES):  # the box is not running, or the engine is gone and the caller reports that
            self.client.api.kill(self.container)


@dataclass(frozen=True, slots=True)
class DockerEngine:
    """Boxes as containers of the Docker-API endpoint called `place`, or of the docker client's current endpoint."""

    cache: Cache
    client: DockerClient
    name: str = "docker"
    place: str = ""
    cores: int = 1

    @classmethod
    def connect(cls, cache: Cache, place: str = "") -> DockerEngine:
        """Return the engine after removing the boxes of dead runs; raises MachineError if it cannot be used.

        Raises UsageError if there is no docker context called `place`.
        """
        try:
            client = connected(place)
            engine = cls(cache, client, place=place, cores=int(client.info().get("NCPU") or 1))
        except UsageError:
            raise
        except Exception as error:  # the SDK raises a bare Exception for a damaged context
            where = place or os.environ.get("DOCKER_HOST") or "the current docker context"
            with suppress(Exception):
                where = endpoint(place) or where
            hint = "start it (systemctl start docker), or leave it out of --endpoint"
            if not place:
                hint = "start one (systemctl start docker), name one with DOCKER_HOST, or use --engine chroot"
            raise MachineError(f"no docker engine answers at {where}: {reason(error)}", hint=hint) from error
        with asking("the boxes of dead runs were being removed"):
            engine._remove_leftovers()
        return engine

    @classmethod
    def reachable(cls, cache: Cache) -> DockerEngine | None:
        """Return the engine, None if none answers within a second or this machine cannot use it."""
        try:
            return cls.connect(cache)
        except MachineError:
            return None

    def close(self) -> None:
        """Close the connections to the engine."""
        self.client.close()

    def box(self, root: Root, name: str, runner: Runner, trust: str = "") -> DockerBox:
        """Return a new box called `name` over `root`, after removing the box of that name of an earlier run."""
        with asking("a box was being made"):
            self._remove_boxes(name)
            image = self._image(root, runner)
            return self._start(root, name, image, trust or compiler_caches.trust_in(name))

    def forget(self, name: str) -> None:
        """Remove the box called `name` of an earlier run, if there is one; raises MachineError."""
        with asking("a box of an earlier run was being removed"):
            self._remove_boxes(name)

    def _start(self, root: Root, name: str, image: str, trust: str) -> DockerBox:
        labels = {f"{LABEL}.cache": self.identity}
        volumes = self._volumes(root.release, trust)
        title = re.sub(r"[^A-Za-z0-9_.-]", "_", f"{LABEL}-{name}-{self.identity}")
        container: str = self.client.api.create_container(
            image,
            # `cat` ends with the lifeline; docker's init reaps the processes that builds leave behind.
            ["cat"],
            name=title,
            hostname="builder",
            stdin_open=True,
            labels={**labels, f"{LABEL}.box": name, f"{LABEL}.run": f"{_machine()} {_lifetime(os.getpid())}"},
            host_config=self.client.api.create_host_config(
                network_mode="none", init=True, binds=volumes, security_opt=["no-new-privileges"]
            ),
        )["Id"]
        box = DockerBox(self.client, container, title, ExitStack(), self.place)
        try:
            attach = connection(self.client, f"containers/{container}/attach", params={"stdin": "1", "stream": "1"})
            box.lifeline.enter_context(attach)
            self.client.api.start(container)
            box.prepare()
        except BaseException:
            with suppress(*FAILURES, MachineError):  # the first error is the one to report
                box.remove()
            raise
        return box

    def _volumes(self, release: str, trust: str) -> dict[str, Mapping[str, str]]:
        """Return a box's volumes: /cache of this trust and, unless that is PROVED, /proved to read."""
        own, proved = self._volume(release, trust), self._volume(release, compiler_caches.PROVED)
        labels = {f"{LABEL}.cache": self.identity, f"{LABEL}.release": release, f"{LABEL}.trust": trust}
        place = {f"{LABEL}.machine": _machine(), f"{LABEL}.path": str(self.cache.path)}
        self.client.volumes.create(own, labels={**labels, **place})
        existing = self.client.volumes.list(filters={"label": f"{LABEL}.cache={self.identity}"})
        self._forget_volumes(existing, release, trust)
        volumes: dict[str, Mapping[str, str]] = {own: {"bind": "/cache", "mode": "rw"}}
        if own != proved and any(volume.name == proved for volume in existing):
            volumes[proved] = {"bind": PROVED, "mode": "ro"}
        return volumes

    def _volume(self, release: str, trust: str) -> str:
        return f"{LABEL}-{release}-{trust}-{self.identity}"

    def _forget_volumes(self, existing: Sequence[Volume], release: str, used: str) -> None:
        """Remove the oldest volumes of other sources, and those of earlier versions, which all sources shared."""
        shared = [volume for volume in existing if f"{LABEL}.trust" not in volume.attrs["Labels"]]
        others = [
            volume
            for volume in existing
            if volume.attrs["Labels"].get(f"{LABEL}.release") == release
            and volume.attrs["Labels"][f"{LABEL}.trust"] not in (compiler_caches.PROVED, used)
        ]
        others.sort(key=lambda volume: str(volume.attrs.get("CreatedAt", "")))
        for volume in [*shared, *others[: -(compiler_caches.KEPT_OTHERS - 1)]]:
            with suppress(APIError):  # a kept box still uses it
                volume.remove()

    def _image(self, root: Root, runner: Runner) -> str:
        """Return the tag of the image of `root`, imported if the engine does not have it."""
        tag = f"{IMAGE}:{root.key}"
        with self.cache.locked(f"image-{root.key}", lambda line: runner.on_line(line) if runner.on_line else None):
            if not self.client.api.images(tag):
                self._import(root, tag, runner)
                self._remove_stale_images(root)
        return tag

    def _import(self, root: Root, tag: str, runner: Runner) -> None:
        labels = {f"{LABEL}.root": root.key, f"{LABEL}.release": root.release, f"{LABEL}.roots": self._roots_id}
        scratch = Path(tempfile.mkdtemp(prefix=".image-", dir=self.cache.folder("boxes")))
        try:
            words = [*namespaces.as_root(confined=True), *entering(root, scratch, ROOT_USER, (), confined=True)]
            pack = ["tar", "--create", "--one-file-system", "--numeric-owner", "--directory=/", "."]
            with output_of([*words, *pack], runner) as tar:
                answer = self.client.api.import_image(
                    src=tar,  # any iterable of bytes is sent in chunks
                    repository=IMAGE,
                    tag=root.key,
                    stream_src=True,
                    changes=[f"LABEL {name}={value}" for name, value in labels.items()],
                )
        finally:
            namespaces.remove(scratch)
        failed = [line for line in map(json.loads, answer.splitlines()) if "error" in line]
        if failed:
            raise refused(str(failed[0]["error"]))

    def _remove_stale_images(self, root: Root) -> None:
        """Remove images of the release's outdated roots, except those that a kept box uses."""
        current = {root.key, *self._current_roots(root.release)}
        filters = {"label": [f"{LABEL}.release={root.release}", f"{LABEL}.roots={self._roots_id}"]}
        for image in self.client.api.images(filters=filters):
            if image["Labels"][f"{LABEL}.root"] not in current:
                with suppress(APIError):
                    self.client.api.remove_image(image["Id"])

    def _current_roots(self, release: str) -> Iterator[str]:
        for record in (self.cache.path / "roots").glob(f"{release}-*.json"):
            with suppress(OSError, ValueError, KeyError):
                if time.time() - record.stat().st_mtime < MAX_AGE_SECONDS:
                    yield json.loads(record.read_text(encoding="utf-8"))["key"]

    def _remove_leftovers(self) -> None:
        """Remove the boxes of this machine's dead runs, except kept ones, and the volumes of caches that are gone."""
        for container in self.client.api.containers(all=True, filters={"label": f"{LABEL}.run"}):
            machine, _, run = container["Labels"][f"{LABEL}.run"].partition(" ")
            kept = any(name.endswith(_FAILED_SUFFIX) for name in container["Names"] or ())
            alive = _lifetime(int(run.partition("-")[0])) == run
            if machine == _machine() and not alive and not kept:
                self._remove_container(container["Id"])

        for volume in self.client.volumes.list(filters={"label": f"{LABEL}.machine={_machine()}"}):
            if not Path(volume.attrs["Labels"][f"{LABEL}.path"]).is_dir():
                with suppress(APIError):  # a kept box still uses it
                    volume.remove()

    def _remove_boxes(self, name: str) -> None:
        labels = [f"{LABEL}.cache={self.identity}", f"{LABEL}.box={name}"]
        for container in self.client.api.containers(all=True, filters={"label": labels}):
            self._remove_container(container["Id"])

    def _remove_container(self, container: str) -> None:
        try:
            self.client.api.remove_container(container, force=True)
        except APIError as error:
            if error.status_code not in (404, 409):  # gone, or being removed by another run
                raise

    @property
    def identity(self) -> str:
        """Identifies this cache among all that use the engine."""
        return _digest(f"{_machine()} {self.cache.path}")

    @property
    def _roots_id(self) -> str:
        return _digest(f"{_machine()} {(self.cache.path / 'roots').resolve()}")


def _machine() -> str:
    """Return an identifier that separates this machine from others that use the same engine."""
    with suppress(OSError):
        if known := Path("/etc/machine-id").read_text(encoding="ascii").strip():
            return _digest(known)
    return _digest(socket.gethostname())


def _lifetime(pid: int) -> str:
    """Return PID-START, which identifies a process even if its number is reused, or PID- if there is no process."""
    try:
        after_name = Path("/proc", str(pid), "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
    except OSError:
        return f"{pid}-"
    return f"{pid}-{after_name.split()[19]}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
