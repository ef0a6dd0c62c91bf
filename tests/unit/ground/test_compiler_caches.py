"""Compiler caches of untrusted sources never reach a pinned release."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.upstream.tarballs import quiet

from pgpool_deb.boxes.box import ChrootEngine
from pgpool_deb.boxes.roots import Root
from pgpool_deb.builds import plan
from pgpool_deb.ground import compiler_caches, namespaces
from pgpool_deb.ground.cache import Cache
from pgpool_deb.ground.command import Runner, Stop
from pgpool_deb.ground.compiler_caches import PROVED, trust_in
from pgpool_deb.ground.project import Project
from pgpool_deb.ground.releases import ReleaseTable
from pgpool_deb.upstream.local_source import from_path
from pgpool_deb.upstream.sources import Source

HERE = Project(Path(__file__).parents[3])
RECIPE = HERE.path / "packaging" / "pgpool_deb" / "packages" / "recipe"
PINNED = Source("4.6.1", Path("/p.tar.gz"), "gz", "a" * 64, True, 1_747_310_400, "release 4.6.1", False, proved=True)
STRANGE = replace(PINNED, pinned=False, proved=False, origin="tarball /x", place="/x")
ROOT = Root("trixie", "trixie-key", (), ())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setattr(namespaces, "as_root", lambda *, confined=False: [])
    return Cache(tmp_path / "cache")


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path / "log", Stop(), 60)


def cache_of(cache: Cache, runner: Runner, source: Source) -> Path:
    """Return the folder that a build of this source sees as /cache."""
    box = ChrootEngine(cache).box(ROOT, f"trixie-amd64-{source.version}", runner, source.trust)
    return box.cache


def kept_by(tmp_path: Path, place: Path, text: str) -> str:
    """Run the recipe's own `restore` on a source with one Makefile, and return the Makefile's content afterwards."""
    tree = tmp_path / "build" / "source"
    (tree / "debian").mkdir(parents=True, exist_ok=True)
    (tree / "debian" / "generated-files").write_text("configure Makefile\n")
    (tree / "debian" / "build.mk").touch()
    (tree / "configure.ac").touch()
    (tree / "Makefile").write_text(text)
    recipe = tmp_path / "recipe"
    moved = RECIPE.read_text().replace("/cache/kept", f"{place}/kept").replace('"/build/', f'"{tmp_path}/build/')
    recipe.write_text(moved)
    tools = tmp_path / "tools"
    tools.mkdir(exist_ok=True)
    (tools / "dpkg-buildflags").write_text("#!/bin/sh\n")
    (tools / "dpkg-buildflags").chmod(0o755)
    env = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    for verb in (["restore", "key"], ["keep"]):
        subprocess.run(["sh", recipe, *verb], cwd=tree, env=env, check=True, capture_output=True)
    return (tree / "Makefile").read_text()


def test_files_kept_by_an_untrusted_build_never_reach_a_pinned_one(
    cache: Cache, runner: Runner, tmp_path: Path
) -> None:
    assert kept_by(tmp_path, cache_of(cache, runner, STRANGE), "evil") == "evil"
    assert kept_by(tmp_path, cache_of(cache, runner, STRANGE), "fine") == "evil", "the hash is of its inputs alone"
    assert kept_by(tmp_path, cache_of(cache, runner, PINNED), "fine") == "fine"


def test_an_untrusted_build_starts_with_a_copy_of_the_proved_cache(cache: Cache, runner: Runner) -> None:
    (cache_of(cache, runner, PINNED) / "object").write_text("fine")
    strange = cache_of(cache, runner, STRANGE)
    assert (strange / "object").read_text() == "fine"
    (strange / "object").write_text("evil")
    assert (cache_of(cache, runner, PINNED) / "object").read_text() == "fine"
    assert (cache_of(cache, runner, STRANGE) / "object").read_text() == "evil"
    assert (cache_of(cache, runner, replace(STRANGE, place="/y")) / "object").read_text() == "fine"


def test_other_users_cannot_enter_boxes_and_compiler_caches(cache: Cache, runner: Runner) -> None:
    """Root's builds run as uid 1000, which may belong to a person."""
    cache.folder("boxes").chmod(0o755)  # as in earlier versions
    cache_of(cache, runner, PINNED)
    assert [cache.folder(name).stat().st_mode & 0o777 for name in ("boxes", "compilers")] == [0o700, 0o700]


def test_an_interrupted_copy_is_repeated(cache: Cache, runner: Runner) -> None:
    (cache_of(cache, runner, PINNED) / "object").write_text("fine")
    partial = cache.folder("compilers", "trixie", STRANGE.trust, "partial")
    (partial / "half").touch()
    assert sorted(path.name for path in cache_of(cache, runner, STRANGE).iterdir()) == ["object"]


def test_the_shared_folder_of_earlier_versions_is_removed(
    cache: Cache, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In earlier versions, `compiler/RELEASE` belongs to a subordinate uid of the user."""
    cache.folder("compiler", "trixie", "kept")
    removed: list[Path] = []
    monkeypatch.setattr(namespaces, "remove", removed.append)
    place = cache_of(cache, runner, PINNED)
    assert cache.path / "compiler" in removed
    assert not place.is_relative_to(cache.path / "compiler")
    assert [path.name for path in (cache.path / "compiler" / "trixie").iterdir()] == ["kept"]


def test_only_the_last_few_untrusted_caches_are_kept_and_the_proved_one_always(cache: Cache, runner: Runner) -> None:
    cache_of(cache, runner, PINNED)
    for number in range(9):
        place = cache_of(cache, runner, replace(STRANGE, place=f"/{number}"))
        os.utime(place.parent, (number, number))
    left = {path.name for path in (cache.path / "compilers" / "trixie").iterdir()}
    newest = {trust_in(f"/{number}") for number in range(9 - compiler_caches.KEPT_OTHERS, 9)}
    assert left == {PROVED, *newest}


def test_pinned_releases_that_are_not_proved_have_their_own_cache() -> None:
    assert PINNED.trust == PROVED
    assert replace(PINNED, proved=False).trust == trust_in("a" * 64)
    assert replace(STRANGE, sha256="b" * 64).trust == STRANGE.trust, "an edited source keeps its compiler cache"


def test_results_depend_on_the_whole_checksum_of_the_tarball() -> None:
    """An attacker can make checksums whose first digits agree."""
    table = ReleaseTable.load(HERE.releases)
    one = replace(STRANGE, sha256="a" * 12 + "b" * 52)
    inputs = []
    for source in (PINNED, one):
        (cell,) = plan.cells(plan.BuildRequest(releases=("trixie",)), table, source, "trixie", HERE)
        inputs.append(cell.pgpool2.inputs(()))
    assert inputs[0] != inputs[1]


def test_the_path_identifies_a_tree(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "configure.ac").write_text("AC_INIT([pgpool-II], [4.6.1])\n")
    source = from_path(tree, tmp_path / "cache", quiet)
    assert source.trust == trust_in(str(tree.resolve()))
