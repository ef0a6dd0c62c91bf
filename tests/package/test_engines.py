"""The same boxes and the same bytes from either engine, twice in a row, cold and warm, after an engine was gone."""

from __future__ import annotations

import contextlib
import io
import json
import secrets
import shlex
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests import docker_daemon
from tests.package.builds import copy_of, same_files, started

from pgpool_deb import archive, box, docker_box, engines, plan
from pgpool_deb.cache import Cache
from pgpool_deb.command import CommandFailed, CommandStalled, Runner, Stop, Stopped
from pgpool_deb.docker_box import DockerEngine
from pgpool_deb.errors import ExitStatus, MachineError
from pgpool_deb.project import Project
from pgpool_deb.releases import Release, ReleaseTable
from pgpool_deb.roots import Root, Roots

CONNECT = "exec 3<>/dev/tcp/192.0.2.1/80"


@pytest.fixture(scope="module")
def one_release(project: Project) -> Release:
    """The stable one: engines do not differ between releases."""
    return ReleaseTable.load(project.releases).stable


@pytest.fixture(scope="module")
def daemon(request: pytest.FixtureRequest) -> Iterator[docker_daemon.Daemon | None]:
    """A daemon of this test's own where none answers, and then the one in use; else None."""
    if docker_daemon.answers():
        yield None
        return
    install = not request.config.getoption("--no-install")
    with docker_daemon.running(install=install) as daemon, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", daemon.host)
        yield daemon


@pytest.fixture(scope="module")
def new_cache(daemon: docker_daemon.Daemon | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CacheMaker]:
    maker = CacheMaker(tmp_path_factory, [])
    yield maker
    for cache in maker.made:
        sweep(cache)


@dataclass(frozen=True, slots=True)
class CacheMaker:
    """Makes caches without results and compiled files, over the user's own roots and sources."""

    factory: pytest.TempPathFactory
    made: list[Cache]

    def __call__(self, name: str) -> Cache:
        users = Cache.open()
        cache = Cache(self.factory.mktemp(name))
        for folder in ("roots", "apt", "sources"):
            (cache.path / folder).symlink_to(users.folder(folder))
        for release in ("bookworm", "trixie", "forky", "sid"):
            (cache.folder("locks") / f"root-{release}").symlink_to(users.folder("locks") / f"root-{release}")
        self.made.append(cache)
        return cache


def sweep(cache: Cache) -> None:
    """Remove what docker has of a cache that is no more; images are of the user's roots and stay."""
    engine = DockerEngine.reachable(cache)
    if engine is None:
        return
    mine = {"label": f"{docker_box.LABEL}.cache={engine.identity}"}
    for container in engine.client.api.containers(all=True, filters=mine):
        engine.client.api.remove_container(container["Id"], force=True)
    for volume in engine.client.volumes.list(filters=mine):
        volume.remove()
    engine.close()


# -- boxes: what both engines promise --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cache(new_cache: CacheMaker) -> Cache:
    return new_cache("boxes")


@pytest.fixture(scope="module")
def docker(cache: Cache) -> Iterator[DockerEngine]:
    engine = DockerEngine.connect(cache)
    yield engine
    engine.close()


@pytest.fixture(params=["chroot", "docker"])
def engine(request: pytest.FixtureRequest, cache: Cache) -> box.Engine:
    if request.param == "docker":
        found: DockerEngine = request.getfixturevalue("docker")
        return found
    return engines.find_engine("chroot", cache)


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path / "log")


@pytest.fixture(scope="module")
def root(cache: Cache, one_release: Release, tmp_path_factory: pytest.TempPathFactory) -> Root:
    """The base root: it is small."""
    store = Roots(cache, plan.machine_architecture(), lambda: archive.find_archive(None))
    return store.obtain(one_release, (), Runner(tmp_path_factory.mktemp("root") / "log"))


@pytest.fixture
def made(engine: box.Engine, root: Root, runner: Runner) -> Iterator[box.Box]:
    one = engine.box(root, "test~1", runner)
    yield one
    one.remove()


def said(one: box.Box, script: str, log: Path) -> list[str]:
    """What a script prints in a box."""
    lines: list[str] = []
    one.run(["bash", "-c", f"echo '-- begin --'; {script}"], Runner(log, on_line=lines.append))
    return lines[lines.index("-- begin --") + 1 :]


def test_a_box_takes_files_in_and_gives_regular_files_out(made: box.Box, runner: Runner, tmp_path: Path) -> None:
    source = tmp_path / "in"
    (source / "debian").mkdir(parents=True)
    (source / "debian" / "rules").write_text("#!/bin/sh\n")
    (source / "debian" / "rules").chmod(0o755)
    (source / "orig.tar").write_bytes(bytes(range(256)) * 5000)
    made.put(source)
    made.run(["sh", "-c", "test -x debian/rules && cp orig.tar copy.tar && : >empty && ln -s copy.tar link"], runner)
    out = tmp_path / "out"
    out.mkdir()
    made.get(out)
    assert sorted(path.name for path in out.iterdir()) == ["copy.tar", "empty", "orig.tar"]
    assert (out / "copy.tar").read_bytes() == (source / "orig.tar").read_bytes()


def test_both_engines_show_a_build_the_same_world(
    cache: Cache, docker: DockerEngine, root: Root, runner: Runner
) -> None:
    look = "id; pwd; env | sort; umask; hostname; stat -c '%n %U:%G' /build /cache; readlink /proc/self/fd/0"
    worlds = []
    for engine in (engines.find_engine("chroot", cache), docker):
        one = engine.box(root, "world", runner)
        worlds.append(said(one, look, runner.log))
        one.remove()
    assert worlds[0] == worlds[1]
    assert "builder" in worlds[0]


def test_a_box_has_no_network(made: box.Box, runner: Runner) -> None:
    with pytest.raises(CommandFailed) as raised:
        made.run(["bash", "-c", CONNECT], runner)
    assert "Network is unreachable" in "\n".join(raised.value.lines)
    devices = said(made, "tail -n +3 /proc/net/dev; tail -n +2 /proc/net/route", runner.log)
    assert [line.split(":")[0].strip() for line in devices] == ["lo"]


def test_a_command_that_fails_tells_its_status_and_last_lines(made: box.Box, runner: Runner) -> None:
    with pytest.raises(CommandFailed) as raised:
        made.run(["sh", "-c", "echo first; echo last >&2; exit 7"], runner)
    assert raised.value.status == 7
    assert raised.value.lines[-2:] == ("first", "last")
    *before, command, first, last = runner.log.read_text().splitlines()
    assert (first, last) == ("first", "last")
    assert command.endswith("'echo first; echo last >&2; exit 7'")
    assert any(line.startswith("$ ") for line in [*before, command])


def test_a_command_that_hangs_is_stopped(made: box.Box, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(CommandStalled):
        made.run(["sh", "-c", "echo begun; sleep 100"], Runner(tmp_path / "log", stall=0.5))
    assert time.monotonic() - began < 10


def test_a_stopped_run_leaves_nothing_running(made: box.Box, tmp_path: Path) -> None:
    stop = Stop()
    mark = f"1{secrets.randbelow(10**6):06}"
    threading.Timer(1, stop.set).start()
    with pytest.raises(Stopped):
        made.run(["sh", "-c", f"sleep {mark} & wait"], Runner(tmp_path / "log", stop))
    wait_for(lambda: not running_anywhere(f"sleep {mark}"), seconds=5)


def running_anywhere(words: str) -> bool:
    """Tell whether a process of this machine, in whatever container, has this command line."""
    for found in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if found.read_bytes().replace(b"\0", b" ").strip() == words.encode():
                return True
    return False


def wait_for(condition: Callable[[], bool], *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_the_cache_of_a_box_outlives_it(engine: box.Engine, root: Root, runner: Runner) -> None:
    for script in ("echo kept >/cache/mark", "grep kept /cache/mark"):
        one = engine.box(root, "keeps", runner)
        one.run(["sh", "-c", script], runner)
        one.remove()


def test_a_box_never_writes_into_its_root(engine: box.Engine, root: Root, runner: Runner) -> None:
    one = engine.box(root, "writes", runner)
    one.run(["sh", "-c", "echo x >/tmp/here"], runner)
    one.remove()
    assert not any((layer / "tmp" / "here").exists() for layer in root.layers)
    assert not any((layer / "build").exists() for layer in root.layers)


# -- docker alone: what it leaves and what it cleans up ----------------------------------------------------------------


def names_of_boxes(engine: DockerEngine) -> list[str]:
    mine = {"label": f"{docker_box.LABEL}.cache={engine.identity}"}
    return sorted(found["Names"][0].lstrip("/") for found in engine.client.api.containers(all=True, filters=mine))


def test_a_failed_box_is_kept_for_its_shell_until_the_next_one(
    docker: DockerEngine, cache: Cache, root: Root, runner: Runner
) -> None:
    failed = docker.box(root, "cell", runner)
    with pytest.raises(CommandFailed):
        failed.run(["sh", "-c", "echo broken >left; exit 1"], runner)
    words = failed.shell()
    assert names_of_boxes(docker) == [f"pgpool-deb-cell-{docker.identity}-failed"]
    terminal = ["script", "-qec", shlex.join(words), "/dev/null"]
    commands = "id -un; pwd; cat left\nexit\n"
    answer = subprocess.run(terminal, input=commands, text=True, capture_output=True, check=False)
    assert "builder\n/build\nbroken\n" in answer.stdout.replace("\r", "")
    DockerEngine.connect(cache).close()
    assert len(names_of_boxes(docker)) == 1
    docker.box(root, "cell", runner).remove()
    assert names_of_boxes(docker) == []


def test_what_a_killed_run_left_is_ended_and_removed(
    docker: DockerEngine, cache: Cache, root: Root, tmp_path: Path
) -> None:
    mark = f"2{secrets.randbelow(10**6):06}"
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from pgpool_deb.cache import Cache; from pgpool_deb.command import Runner; from pgpool_deb.roots import Root\n"
        "from pgpool_deb.docker_box import DockerEngine\n"
        "root = Root(sys.argv[4], sys.argv[5], tuple(map(Path, sys.argv[6:])), ())\n"
        "one = DockerEngine.connect(Cache(Path(sys.argv[2]))).box(root, 'killed', Runner(Path(sys.argv[3])))\n"
        f"one.run(['sleep', '{mark}'], Runner(Path(sys.argv[3])))\n"
    )
    packaging = Path(box.__file__).parents[1]
    words = [packaging, cache.path, tmp_path / "log", root.release, root.key, *root.layers]
    with subprocess.Popen([sys.executable, "-c", code, *map(str, words)]) as process:
        wait_for(lambda: running_anywhere(f"sleep {mark}"), seconds=20)
        DockerEngine.connect(cache).close()
        assert running_anywhere(f"sleep {mark}"), "the box of a run that lives was removed"
        process.kill()
    wait_for(lambda: not running_anywhere(f"sleep {mark}"), seconds=5)
    DockerEngine.connect(cache).close()
    assert names_of_boxes(docker) == []


def test_images_of_roots_that_are_no_more_are_removed(docker: DockerEngine, root: Root, runner: Runner) -> None:
    docker.box(root, "images", runner).remove()
    tag = f"{docker_box.IMAGE}:{root.key}"
    (image,) = docker.client.api.images(tag)
    labels = image["Labels"]
    old = {**labels, f"{docker_box.LABEL}.root": f"{root.release}-old"}
    nothing = io.BytesIO()
    tarfile.open(fileobj=nothing, mode="w").close()
    changes = [f"LABEL {name}={value}" for name, value in old.items()]
    docker.client.api.import_image_from_data(
        nothing.getvalue(), repository=docker_box.IMAGE, tag=f"{root.release}-old", changes=changes
    )
    docker.client.api.remove_image(tag)
    docker.box(root, "images", runner).remove()
    tags = {tag for image in docker.client.api.images(docker_box.IMAGE) for tag in image["RepoTags"]}
    assert tag in tags
    assert f"{docker_box.IMAGE}:{root.release}-old" not in tags


def test_the_volume_of_a_cache_that_is_no_more_is_removed(
    docker: DockerEngine, cache: Cache, new_cache: CacheMaker, root: Root, runner: Runner
) -> None:
    lost = new_cache("lost")
    engine = DockerEngine.connect(lost)
    engine.box(root, "lost", runner).remove()
    mine = {"label": f"{docker_box.LABEL}.cache={engine.identity}"}
    engine.close()
    assert len(docker.client.volumes.list(filters=mine)) == 1
    shutil.rmtree(lost.path)
    DockerEngine.connect(cache).close()
    assert docker.client.volumes.list(filters=mine) == []


def test_a_root_that_cannot_be_packed_leaves_no_image(
    docker: DockerEngine, root: Root, runner: Runner, tmp_path: Path
) -> None:
    broken = Root(root.release, f"{root.release}-broken", (tmp_path / "nothing",), ())
    with pytest.raises(MachineError, match="could not be packed"):
        docker.box(broken, "broken", runner)
    assert docker.client.api.images(f"{docker_box.IMAGE}:{broken.key}") == []
    assert names_of_boxes(docker) == []


# -- packages ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkout(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this checkout, so that its dist/ is this test's own, and an edit meanwhile does no harm."""
    return copy_of(project.path, tmp_path_factory.mktemp("copy") / "checkout")


@dataclass(frozen=True, slots=True)
class Shop:
    """Where packages of one release are built, each time in the place that is named."""

    checkout: Path
    release: Release

    def command(self, cache: Cache, engine: str) -> subprocess.Popen[str]:
        """Start build-deb with its own cache."""
        return started(self.checkout, cache, "--release", self.release.name, "--engine", engine)

    def build(self, cache: Cache, engine: str) -> dict[str, str]:
        """Build, and return name and SHA-256 of the files that must be the same each time."""
        with self.command(cache, engine) as process:
            output, _ = process.communicate()
        assert process.returncode == ExitStatus.GOOD, output
        assert "built" in output
        return self.in_dist()

    def in_dist(self) -> dict[str, str]:
        return same_files(self.checkout / "dist", [self.release.name])


@pytest.fixture(scope="module")
def shop(checkout: Path, one_release: Release) -> Shop:
    return Shop(checkout, one_release)


@dataclass(frozen=True, slots=True)
class Place:
    """A cache and the files that the first build in it made, from nothing."""

    cache: Cache
    cold: dict[str, str]

    def forget_results(self) -> None:
        """Let the next run build again, with the compiler's cache and kept files."""
        shutil.rmtree(self.cache.path / "results")


@pytest.fixture(scope="module")
def by_chroot(shop: Shop, new_cache: CacheMaker) -> Place:
    cache = new_cache("chroot")
    return Place(cache, shop.build(cache, "chroot"))


@pytest.fixture(scope="module")
def by_docker(shop: Shop, new_cache: CacheMaker) -> Place:
    cache = new_cache("docker")
    return Place(cache, shop.build(cache, "docker"))


@pytest.mark.thorough
def test_two_builds_in_a_row_make_the_same_files(shop: Shop, by_chroot: Place, new_cache: CacheMaker) -> None:
    assert len(by_chroot.cold) >= 9
    assert sum(name.startswith("pgpool2-cluster_") for name in by_chroot.cold) == 3
    assert shop.build(new_cache("again"), "chroot") == by_chroot.cold


def test_both_engines_make_the_same_files(by_chroot: Place, by_docker: Place) -> None:
    assert by_docker.cold == by_chroot.cold


def test_a_warm_build_makes_the_same_files(shop: Shop, by_chroot: Place) -> None:
    by_chroot.forget_results()
    assert shop.build(by_chroot.cache, "chroot") == by_chroot.cold


@pytest.mark.thorough
def test_a_build_whose_box_is_stopped_fails_for_the_machine(shop: Shop, by_docker: Place) -> None:
    by_docker.forget_results()
    output = interrupted(shop, by_docker, stop_box)
    assert "the box was stopped from outside" in output
    assert shop.in_dist() == by_docker.cold


def test_a_build_whose_engine_dies_fails_for_the_machine_and_goes_on_when_it_is_back(
    shop: Shop, by_docker: Place, daemon: docker_daemon.Daemon | None
) -> None:
    shutil.rmtree(by_docker.cache.path / "results", ignore_errors=True)
    if daemon is not None:  # one that was here before belongs to somebody
        output = interrupted(shop, by_docker, lambda _cache: daemon.kill())
        assert "the docker engine no longer answers" in output
        assert shop.in_dist() == by_docker.cold
        with shop.command(by_docker.cache, "docker") as process:
            output, _ = process.communicate()
        assert process.returncode == ExitStatus.ENVIRONMENT
        assert "no docker engine answers" in output
        daemon.start()
    assert shop.build(by_docker.cache, "docker") == by_docker.cold
    engine = DockerEngine.connect(by_docker.cache)
    assert names_of_boxes(engine) == []
    engine.close()


def interrupted(shop: Shop, place: Place, interrupt: Callable[[Cache], None]) -> str:
    """Interrupt a build while it compiles, check its status and summary, and return what it printed."""
    with shop.command(place.cache, "docker") as process:
        assert process.stdout is not None
        printed = []
        for line in process.stdout:
            printed.append(line)
            if line.endswith(": compile\n"):
                break
        interrupt(place.cache)
        rest, _ = process.communicate(timeout=60)
    output = "".join(printed) + rest
    assert process.returncode == ExitStatus.ENVIRONMENT, output
    assert "hint:" in output
    (cell,) = json.loads((shop.checkout / "dist" / "summary.json").read_text())["cells"]
    assert (cell["state"], cell["stage"]) == ("failed", "compile")
    return output


def stop_box(cache: Cache) -> None:
    engine = DockerEngine.connect(cache)
    mine = {"label": f"{docker_box.LABEL}.cache={engine.identity}"}
    (found,) = engine.client.api.containers(filters=mine)
    engine.client.api.kill(found["Id"])
    engine.close()
