"""Boxes: the guarantees of both engines, and docker's cleaning up."""

from __future__ import annotations

import io
import secrets
import shlex
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.package.caches import CacheMaker, boxes_of, of_cache
from tests.package.processes import eventually, running_anywhere

from pgpool_deb.boxes import archive, box, docker_box, engines
from pgpool_deb.boxes.docker_box import DockerEngine
from pgpool_deb.boxes.roots import Root, Roots
from pgpool_deb.builds import plan
from pgpool_deb.ground.cache import Cache
from pgpool_deb.ground.command import CommandFailed, CommandStalled, Runner, Stop, Stopped
from pgpool_deb.ground.compiler_caches import PROVED
from pgpool_deb.ground.errors import MachineError
from pgpool_deb.ground.releases import Release

CONNECT = "exec 3<>/dev/tcp/192.0.2.1/80"


# -- what both engines promise -----------------------------------------------------------------------------------------


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
        result: DockerEngine = request.getfixturevalue("docker")
        return result
    return engines.find_engine("chroot", cache)


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path / "log")


@pytest.fixture(scope="module")
def root(cache: Cache, one_release: Release, tmp_path_factory: pytest.TempPathFactory) -> Root:
    """Return the base root, which is small."""
    store = Roots(cache, plan.machine_architecture(), lambda: archive.find_archive(None))
    return store.obtain(one_release, (), Runner(tmp_path_factory.mktemp("root") / "log"))


@pytest.fixture
def made(engine: box.Engine, root: Root, runner: Runner) -> Iterator[box.Box]:
    one = engine.box(root, "test~1", runner)
    yield one
    one.remove()


def said(one: box.Box, script: str, log: Path) -> list[str]:
    """Return the output lines of a script in a box."""
    lines: list[str] = []
    one.run(["bash", "-c", f"echo '-- begin --'; {script}"], Runner(log, on_line=lines.append))
    return lines[lines.index("-- begin --") + 1 :]


def test_files_go_into_a_box_and_regular_files_come_out(made: box.Box, runner: Runner, tmp_path: Path) -> None:
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


def test_both_engines_give_a_build_the_same_environment(
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


def test_no_set_user_id_program_makes_a_build_root(made: box.Box, runner: Runner) -> None:
    assert said(made, "grep NoNewPrivs /proc/self/status; stat -c %A $(command -v su)", runner.log) == [
        "NoNewPrivs:\t1",
        "-rwsr-xr-x",
    ]


def test_a_failing_command_reports_its_status_and_last_lines(made: box.Box, runner: Runner) -> None:
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
    assert eventually(lambda: not running_anywhere(f"sleep {mark}"), 5)


def test_the_cache_of_a_box_outlives_it(engine: box.Engine, root: Root, runner: Runner) -> None:
    for script in ("echo kept >/cache/mark", "grep kept /cache/mark"):
        one = engine.box(root, "keeps", runner)
        one.run(["sh", "-c", script], runner)
        one.remove()


def test_an_untrusted_box_gets_a_copy_of_the_proved_cache_and_never_changes_it(
    engine: box.Engine, root: Root, runner: Runner
) -> None:
    def run(name: str, trust: str, script: str) -> None:
        one = engine.box(root, name, runner, trust)
        one.run(["sh", "-c", script], runner)
        one.remove()

    run("ours", PROVED, "echo good >/cache/mark")
    run("theirs", "stranger", "grep good /cache/mark; echo bad >/cache/mark")
    run("ours", PROVED, "grep good /cache/mark")
    run("theirs", "stranger", "grep bad /cache/mark")
    run("others", "another", "grep good /cache/mark")


def test_a_box_never_writes_into_its_root(engine: box.Engine, root: Root, runner: Runner) -> None:
    one = engine.box(root, "writes", runner)
    one.run(["sh", "-c", "echo x >/tmp/here"], runner)
    one.remove()
    assert not any((layer / "tmp" / "here").exists() for layer in root.layers)
    assert not any((layer / "build").exists() for layer in root.layers)


# -- docker alone: what it leaves and what it cleans up ----------------------------------------------------------------


def test_a_failed_box_is_kept_for_its_shell_until_the_next_one(
    docker: DockerEngine, cache: Cache, root: Root, runner: Runner
) -> None:
    failed = docker.box(root, "cell", runner)
    with pytest.raises(CommandFailed):
        failed.run(["sh", "-c", "echo broken >left; exit 1"], runner)
    words = failed.shell()
    assert boxes_of(docker) == [f"pgpool-deb-cell-{docker.identity}-failed"]
    terminal = ["script", "-qec", shlex.join(words), "/dev/null"]
    commands = "id -un; pwd; cat left\nexit\n"
    answer = subprocess.run(terminal, input=commands, text=True, capture_output=True, check=False)
    assert "builder\n/build\nbroken\n" in answer.stdout.replace("\r", "")
    DockerEngine.connect(cache).close()
    assert len(boxes_of(docker)) == 1
    docker.box(root, "cell", runner).remove()
    assert boxes_of(docker) == []


def test_the_box_of_a_killed_run_is_ended_and_removed(
    docker: DockerEngine, cache: Cache, root: Root, tmp_path: Path
) -> None:
    mark = f"2{secrets.randbelow(10**6):06}"
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from pgpool_deb.boxes.docker_box import DockerEngine; from pgpool_deb.boxes.roots import Root\n"
        "from pgpool_deb.ground.cache import Cache; from pgpool_deb.ground.command import Runner\n"
        "root = Root(sys.argv[4], sys.argv[5], tuple(map(Path, sys.argv[6:])), ())\n"
        "one = DockerEngine.connect(Cache(Path(sys.argv[2]))).box(root, 'killed', Runner(Path(sys.argv[3])))\n"
        f"one.run(['sleep', '{mark}'], Runner(Path(sys.argv[3])))\n"
    )
    packaging = Path(box.__file__).parents[2]
    words = [packaging, cache.path, tmp_path / "log", root.release, root.key, *root.layers]
    with subprocess.Popen([sys.executable, "-c", code, *map(str, words)]) as process:
        assert eventually(lambda: running_anywhere(f"sleep {mark}"), 20)
        DockerEngine.connect(cache).close()
        assert running_anywhere(f"sleep {mark}"), "the box of a run that lives was removed"
        process.kill()
    assert eventually(lambda: not running_anywhere(f"sleep {mark}"), 5)
    DockerEngine.connect(cache).close()
    assert boxes_of(docker) == []


def test_images_of_removed_roots_are_removed(docker: DockerEngine, root: Root, runner: Runner) -> None:
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


def test_the_volume_of_a_removed_cache_is_removed(
    docker: DockerEngine, cache: Cache, new_cache: CacheMaker, root: Root, runner: Runner
) -> None:
    lost = new_cache("lost")
    engine = DockerEngine.connect(lost)
    engine.box(root, "lost", runner).remove()
    mine = of_cache(engine)
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
    assert boxes_of(docker) == []
