"""Builds are spread over engines, and builds of a failing engine move to others."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pgpool_deb.boxes import engines
from pgpool_deb.boxes.box import Box, Engine
from pgpool_deb.boxes.docker_box import DockerEngine
from pgpool_deb.boxes.docker_context import context
from pgpool_deb.boxes.docker_endpoint import endpoint, endpoint_options
from pgpool_deb.boxes.roots import Root
from pgpool_deb.builds import plan, workshop
from pgpool_deb.builds.farm import Farm, chosen
from pgpool_deb.builds.results import Dist
from pgpool_deb.ground.cache import Cache
from pgpool_deb.ground.command import CommandFailed, CommandStalled, Runner, Stop
from pgpool_deb.ground.errors import ExitStatus, MachineError, PackageError, UsageError
from pgpool_deb.ground.project import Project
from pgpool_deb.runs import build_deb

GONE = MachineError("it is gone", hint="wait")


@dataclass(slots=True, eq=False)
class FakeEngine:
    """An engine whose boxes fail with `fault`, if it is set."""

    place: str
    fault: Exception | None = None
    name: str = "docker"
    cores: int = 7
    did: list[str] = field(default_factory=list)

    def box(self, root: Root, name: str, runner: Runner, trust: str = "") -> Box:
        return FakeBox(self)

    def forget(self, name: str) -> None:
        self.did.append(f"forget {name}")


@dataclass(slots=True)
class FakeBox:
    engine: FakeEngine

    def put(self, source: Path) -> None:
        pass

    def run(self, argv: Sequence[str], runner: Runner) -> None:
        self.engine.did.append(" ".join(argv))
        if self.engine.fault is not None:
            raise self.engine.fault

    def get(self, destination: Path) -> None:
        pass

    def shell(self) -> list[str]:
        return ["shell"]

    def remove(self) -> None:
        self.engine.did.append("remove")
        if self.engine.fault is GONE:
            raise GONE


def farm_of(*made: Engine) -> tuple[Farm, list[str]]:
    output: list[str] = []
    return Farm(lambda: made, output.append), output


@pytest.mark.parametrize(
    ("busy", "home", "index"),
    [
        ({0: 0, 1: 0, 2: 0}, 4, 1),
        ({0: 0, 1: 1, 2: 0}, 1, 2),
        ({0: 2, 1: 1, 2: 2}, 0, 1),
        ({0: 0, 2: 0}, 1, 2),
        ({2: 9}, 0, 2),
    ],
)
def test_the_least_busy_engine_gets_the_build_and_among_equals_its_home(
    busy: dict[int, int], home: int, index: int
) -> None:
    assert chosen(busy, 3, home) == index


def test_parallel_builds_are_spread_evenly() -> None:
    made = [FakeEngine(name) for name in "abc"]
    farm, _ = farm_of(*made)
    with ExitStack() as side_by_side:
        lent = [side_by_side.enter_context(farm.engine_for(f"build{number}")).place for number in range(6)]
    assert sorted(lent) == ["a", "a", "b", "b", "c", "c"]


def test_a_repeated_build_gets_the_same_engine_and_the_others_forget_it() -> None:
    made = [FakeEngine(name) for name in "abc"]
    farm, _ = farm_of(*made)
    lent = set()
    for _ in range(3):
        with farm.engine_for("trixie") as engine:
            lent.add(engine.place)
    assert len(lent) == 1
    assert {one.place for one in made if one.did == ["forget trixie"] * 3} == set("abc") - lent


def test_engines_are_connected_once_and_on_demand() -> None:
    requested = []

    def connect() -> tuple[Engine, ...]:
        requested.append(threading.current_thread())
        return (FakeEngine("a"),)

    farm = Farm(connect, print)
    assert requested == []

    def use() -> None:
        with farm.engine_for("x"):
            pass

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(requested) == 1


def test_builds_get_the_engines_that_open_connected() -> None:
    made = iter([(FakeEngine("a"),)])
    farm = Farm(lambda: next(made), print)
    farm.open()
    farm.open()
    with farm.engine_for("x") as engine:
        assert engine.place == "a"


def test_an_engine_that_failed_gets_no_more_builds_and_the_last_one_is_kept() -> None:
    first, second = FakeEngine("a"), FakeEngine("b")
    farm, output = farm_of(first, second)
    with farm.engine_for("x"):
        assert farm.goes_on_without(first, GONE)
        assert farm.goes_on_without(first, GONE), "another build on it may notice later"
        assert not farm.goes_on_without(second, GONE)
    assert output == ["warning: a gets no more builds; other endpoints take over: it is gone"]
    for number in range(4):
        with farm.engine_for(f"x{number}") as engine:
            assert engine is second


# -- a build, as the workshop does it ----------------------------------------------------------------------------------


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Farm], workshop.Outcome]:
    """Run one build with a farm; the files in the box are not checked."""
    cache = Cache(tmp_path)
    monkeypatch.setattr(workshop._Job, "_collect", lambda *_: {"a.deb": "0"})

    class Anything:
        """A double for a package, the roots, the results, dist/ and the display."""

        name = "trixie"
        source = "pgpool2"
        log = "build.log"
        key = "trixie-0"
        path = tmp_path
        packages: Sequence[str] = ()

        def __getattr__(self, _: str) -> Any:
            return self

        def __call__(self, *_: object, **__: object) -> Any:
            return self

    def work(farm: Farm) -> workshop.Outcome:
        any_: Any = Anything()
        shop = workshop.Workshop(cache, any_, any_, Dist(tmp_path), farm, any_, Stop(), 600)
        return workshop._Job(shop, any_).work()

    return work


def test_a_build_uses_the_cores_of_its_engine(work: Callable[[Farm], workshop.Outcome]) -> None:
    engine = FakeEngine("a")
    outcome = work(farm_of(engine)[0])
    assert (outcome.state, outcome.endpoint) == (workshop.BuildState.BUILT, "a")
    assert engine.did == ["/build/recipe build pgpool2 7 trixie-0", "remove"]


@pytest.mark.parametrize("fault", [GONE, CommandFailed(["recipe"], 1, ["cc1: error: write: No space left on device"])])
def test_a_build_moves_on_from_an_engine_that_fails(
    work: Callable[[Farm], workshop.Outcome], fault: Exception, tmp_path: Path
) -> None:
    bad = [FakeEngine("bad1", fault), FakeEngine("bad2", fault)]
    good = FakeEngine("good")
    farm, output = farm_of(*bad, good)
    first = work(farm)
    assert (first.state, first.endpoint, first.error) == (workshop.BuildState.BUILT, "good", None)
    tried = [one for one in bad if "remove" in one.did]
    assert len(output) == len(tried)
    assert all(one.place in (tmp_path / "logs" / "trixie.log").read_text() for one in tried)


def test_if_every_engine_fails_the_build_has_the_last_error(
    work: Callable[[Farm], workshop.Outcome],
) -> None:
    farm, output = farm_of(FakeEngine("a", GONE), FakeEngine("b", GONE))
    outcome = work(farm)
    assert (outcome.state, outcome.error) == (workshop.BuildState.FAILED, GONE)
    assert len(output) == 1
    assert work(farm).error is GONE, "the last one is asked again"


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (CommandFailed(["recipe"], 2, ["main.c:1: error: no such thing"]), PackageError),
        (CommandStalled(["recipe"], -1, []), MachineError),
        (PackageError("not as promised", hint=""), PackageError),
    ],
)
def test_a_failing_package_is_not_tried_on_another_engine(
    work: Callable[[Farm], workshop.Outcome], fault: Exception, kind: type
) -> None:
    made = FakeEngine("a", fault), FakeEngine("b", fault)
    farm, output = farm_of(*made)
    outcome = work(farm)
    assert isinstance(outcome.error, kind)
    assert outcome.shell == ("shell",)
    assert output == []
    assert outcome.endpoint in {"a", "b"}
    assert sum("/build/recipe" in line for one in made for line in one.did) == 1


# -- names ---------------------------------------------------------------------------------------------------------


def test_a_silent_endpoint_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(cache: Cache, place: str) -> FakeEngine:
        if place == "away":
            raise MachineError("no docker engine answers at away", hint="start it")
        return FakeEngine(place)

    monkeypatch.setattr(DockerEngine, "connect", connect)
    output: list[str] = []
    result = engines.find_engines("docker", ("a", "away", "b"), Cache(tmp_path), output.append)
    assert [one.place for one in result] == ["a", "b"]
    assert output == ["warning: no docker engine answers at away; no builds are sent to it"]
    with pytest.raises(MachineError, match="answers at away"):
        engines.find_engines("auto", ("away",), Cache(tmp_path), output.append)


def test_without_endpoints_the_requested_engine_is_used(tmp_path: Path) -> None:
    (result,) = engines.find_engines("chroot", (), Cache(tmp_path), print)
    assert (result.name, result.place) == ("chroot", "")


def test_an_unknown_context_is_wrong_usage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with pytest.raises(UsageError, match="docker context 'farm1' does not exist") as raised:
        DockerEngine.connect(Cache(tmp_path), "farm1")
    assert raised.value.exit_status is ExitStatus.USAGE


@pytest.fixture
def farm1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the folder of a docker context as `docker context create` does, without a config.json beside it."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    known_as = hashlib.sha256(b"farm1").hexdigest()
    meta = tmp_path / "contexts" / "meta" / known_as
    meta.mkdir(parents=True)
    metadata = {"Name": "farm1", "Endpoints": {"docker": {"Host": "tcp://farm1:2376", "SkipTLSVerify": False}}}
    (meta / "meta.json").write_text(json.dumps(metadata))
    return tmp_path / "contexts" / "tls" / known_as / "docker"


def test_a_context_is_an_address_and_certificates(farm1: Path) -> None:
    assert context("farm1") == {"base_url": "tcp://farm1:2376"}
    farm1.mkdir(parents=True)
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (farm1 / name).write_text("")
    tls = context("farm1")["tls"]
    assert (tls.ca_cert, tls.cert, tls.verify) == (
        str(farm1 / "ca.pem"),
        (str(farm1 / "cert.pem"), str(farm1 / "key.pem")),
        True,
    )
    (farm1 / "cert.pem").unlink()
    assert context("farm1")["tls"].cert is None
    assert endpoint("farm1") == "tcp://farm1:2376"
    assert context("default")["base_url"].startswith("unix://")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"Endpoints": {"docker": {}}}'])
def test_a_damaged_context_is_the_machines_fault(farm1: Path, tmp_path: Path, text: str) -> None:
    (meta,) = (tmp_path / "contexts" / "meta").glob("*/meta.json")
    meta.write_text(text)
    with pytest.raises(MachineError, match="the docker context 'farm1' cannot be read"):
        DockerEngine.connect(Cache(tmp_path), "farm1")


def test_an_address_without_a_listener_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///another")
    with pytest.raises(MachineError, match=f"answers at unix://{tmp_path}/none.sock: No such file"):
        DockerEngine.connect(Cache(tmp_path), f"unix://{tmp_path}/none.sock")


def test_the_docker_client_gets_the_same_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///one")
    assert endpoint_options() == ["--host", "unix:///one"]
    assert endpoint_options("tcp://farm:2376") == ["--host", "tcp://farm:2376"]
    assert endpoint_options("farm1") == ["--context", "farm1"]


def test_endpoint_and_engine_chroot_exclude_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPOOL_DEB_CACHE", str(tmp_path / "cache"))
    request = plan.BuildRequest(engine="chroot", endpoints=("farm1",))
    with pytest.raises(UsageError, match="--endpoint and --engine chroot exclude each other"):
        build_deb.run(Project(tmp_path), request)


def test_names_of_endpoints_are_deduplicated() -> None:
    assert plan.parse_endpoints(None) == ()
    assert plan.parse_endpoints("farm1, tcp://farm2:2376,farm1") == ("farm1", "tcp://farm2:2376")
    with pytest.raises(UsageError, match="empty name"):
        plan.parse_endpoints("farm1,")
