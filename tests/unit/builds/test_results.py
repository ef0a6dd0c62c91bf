"""Finished builds are kept, and dist/ stays consistent whatever happens during a write."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgpool_deb.builds.results import KEPT_RESULTS, Dist, Results
from pgpool_deb.ground.cache import Cache
from pgpool_deb.ground.errors import MachineError

INPUTS = {"pgpool-II": "4.6.1 (abc)", "package gcc": "14"}
PACKAGE = {"a_1.deb": b"a", "a_1.dsc": b"source", "a_1.changes": b"names a_1.deb", "build.log": b"log"}
NEXT = {"a_2.deb": b"aa", "a_2.dsc": b"source 2", "a_2.changes": b"names a_2.deb", "build.log": b"log 2"}


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(Cache(tmp_path / "cache"))


@pytest.fixture
def dist(tmp_path: Path) -> Dist:
    return Dist(tmp_path / "dist")


def folder_with(path: Path, files: dict[str, bytes]) -> Path:
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def hashes(files: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files that a user sees in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name[0] != "."}


def lay_down(dist: Dist, files: dict[str, bytes], origin: Path) -> None:
    dist.lay_down("trixie", "pgpool2", hashes(files), origin)


def test_a_kept_result_is_found_under_its_inputs_and_no_others(results: Results, tmp_path: Path) -> None:
    kept = results.keep("cell", INPUTS, folder_with(tmp_path / "built", PACKAGE))
    assert kept == hashes(PACKAGE) == results.find(INPUTS)
    assert results.find({**INPUTS, "package gcc": "15"}) is None
    assert results.last_inputs("cell") == INPUTS
    assert results.last_inputs("another") is None


@pytest.mark.parametrize("name", PACKAGE)
@pytest.mark.parametrize("content", [None, b"", b"other"], ids=["gone", "empty", "changed"])
def test_a_result_with_a_damaged_file_is_ignored(
    results: Results, tmp_path: Path, name: str, content: bytes | None
) -> None:
    results.keep("cell", INPUTS, folder_with(tmp_path / "built", PACKAGE))
    path = results.folder(INPUTS) / name
    path.unlink() if content is None else path.write_bytes(content)
    assert results.find(INPUTS) is None


def test_a_damaged_record_is_ignored(results: Results, tmp_path: Path) -> None:
    results.keep("cell", INPUTS, folder_with(tmp_path / "built", PACKAGE))
    record = results.folder(INPUTS) / "files.json"
    record.write_text(record.read_text()[:-5])
    assert results.find(INPUTS) is None


def test_keeping_a_result_again_repairs_it(results: Results, tmp_path: Path) -> None:
    built = folder_with(tmp_path / "built", PACKAGE)
    results.keep("cell", INPUTS, built)
    (results.folder(INPUTS) / "a_1.deb").write_bytes(b"other")
    results.keep("cell", INPUTS, built)
    assert results.find(INPUTS) == hashes(PACKAGE)


def test_partial_results_of_a_killed_run_are_removed_and_never_used(results: Results, tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    folder = results.folder(INPUTS)
    left = folder_with(folder.with_name(f".{folder.name}.{dead.pid}"), PACKAGE)
    own = folder_with(folder.with_name(f".other.{os.getpid()}"), PACKAGE)
    assert results.find(INPUTS) is None
    results.keep("cell", INPUTS, folder_with(tmp_path / "built", PACKAGE))
    assert not left.exists()
    assert own.exists(), "another cell of this run is being kept there"


def test_the_most_recently_used_results_are_kept(results: Results, tmp_path: Path) -> None:
    built = folder_with(tmp_path / "built", PACKAGE)
    for number in range(KEPT_RESULTS):
        results.keep("cell", {"number": str(number)}, built)
        os.utime(results.folder({"number": str(number)}), (number, number))
    assert results.find({"number": "0"}) is not None, "which counts as a use"
    results.keep("cell", {"number": "one more"}, built)
    assert results.find({"number": "0"}) is not None
    assert results.find({"number": "1"}) is None
    assert results.find({"number": "2"}) is not None


def test_dist_has_the_laid_down_files(dist: Dist, tmp_path: Path) -> None:
    assert not dist.holds("trixie", "pgpool2", hashes(PACKAGE))
    lay_down(dist, PACKAGE, folder_with(tmp_path / "origin", PACKAGE))
    assert contents(dist.path / "trixie") == PACKAGE
    assert dist.holds("trixie", "pgpool2", hashes(PACKAGE))
    assert not dist.holds("sid", "pgpool2", hashes(PACKAGE))


@pytest.mark.parametrize("name", PACKAGE)
@pytest.mark.parametrize("content", [None, b"other"], ids=["gone", "changed"])
def test_a_changed_file_of_dist_is_noticed(dist: Dist, tmp_path: Path, name: str, content: bytes | None) -> None:
    lay_down(dist, PACKAGE, folder_with(tmp_path / "origin", PACKAGE))
    path = dist.path / "trixie" / name
    path.unlink() if content is None else path.write_bytes(content)
    assert not dist.holds("trixie", "pgpool2", hashes(PACKAGE))


def test_the_next_version_replaces_the_last_one_and_no_other_package(dist: Dist, tmp_path: Path) -> None:
    cluster = {"pgpool2-cluster_1_all.deb": b"c", "pgpool2-cluster_1.changes": b"cc"}
    dist.lay_down("trixie", "pgpool2-cluster", hashes(cluster), folder_with(tmp_path / "cluster", cluster))
    lay_down(dist, PACKAGE, folder_with(tmp_path / "one", PACKAGE))
    lay_down(dist, NEXT, folder_with(tmp_path / "two", NEXT))
    assert contents(dist.path / "trixie") == {**cluster, **NEXT}
    assert not dist.holds("trixie", "pgpool2", hashes(PACKAGE))
    assert dist.holds("trixie", "pgpool2-cluster", hashes(cluster))


def test_the_last_version_stays_complete_if_a_new_file_cannot_be_read(dist: Dist, tmp_path: Path) -> None:
    lay_down(dist, PACKAGE, folder_with(tmp_path / "one", PACKAGE))
    origin = folder_with(tmp_path / "two", {name: NEXT[name] for name in sorted(NEXT)[:-1]})
    with pytest.raises(MachineError, match="dist/trixie cannot be written: No such file"):
        lay_down(dist, NEXT, origin)
    assert contents(dist.path / "trixie") == PACKAGE
    assert not list((dist.path / "trixie").glob(".*.partial"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_the_last_version_stays_complete_on_a_full_disk(dist: Dist, tmp_path: Path) -> None:
    dist.path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(dist.path)], check=True)
    try:
        lay_down(dist, PACKAGE, folder_with(tmp_path / "one", PACKAGE))
        big = {**NEXT, "a_2.deb": bytes(300_000)}
        origin = folder_with(tmp_path / "two", big)
        with pytest.raises(MachineError, match="No space left on device\nhint: free space there"):
            lay_down(dist, big, origin)
        assert contents(dist.path / "trixie") == PACKAGE
        assert dist.holds("trixie", "pgpool2", hashes(PACKAGE))
        subprocess.run(["mount", "-o", "remount,size=2m", str(dist.path)], check=True)
        lay_down(dist, big, origin)
        assert contents(dist.path / "trixie") == big
    finally:
        subprocess.run(["umount", str(dist.path)], check=True)


@pytest.mark.parametrize("blocked", sorted(name for name in NEXT if not name.endswith(".changes")))
def test_no_changes_file_ever_names_a_missing_file(dist: Dist, tmp_path: Path, blocked: str) -> None:
    """The write fails at each file in turn, as after a kill, because a folder has the file's name."""
    lay_down(dist, PACKAGE, folder_with(tmp_path / "one", PACKAGE))
    folder = dist.path / "trixie"
    (folder / blocked).unlink(missing_ok=True)
    (folder / blocked).mkdir()
    with pytest.raises(MachineError, match="cannot be written"):
        lay_down(dist, NEXT, folder_with(tmp_path / "two", NEXT))
    there = contents(folder)
    assert not any(name.endswith(".changes") for name in there)
    assert not list(folder.glob(".*.partial"))
    (folder / blocked).rmdir()
    lay_down(dist, NEXT, tmp_path / "two")
    assert contents(folder) == NEXT


@settings(max_examples=30)
@given(
    st.dictionaries(st.from_regex(r"\A[a-z][a-z0-9+.]{0,8}\Z"), st.binary(max_size=8), max_size=4),
    st.dictionaries(st.from_regex(r"\A[a-z][a-z0-9+.]{0,8}\Z"), st.binary(max_size=8), max_size=4),
)
def test_dist_has_the_last_laid_down_files_and_no_others(
    tmp_path_factory: pytest.TempPathFactory, first: dict[str, bytes], second: dict[str, bytes]
) -> None:
    place = tmp_path_factory.mktemp("dist")
    dist = Dist(place / "dist")
    for number, files in enumerate((first, second)):
        lay_down(dist, files, folder_with(place / str(number), files))
        assert contents(dist.path / "trixie") == files
        assert dist.holds("trixie", "pgpool2", hashes(files))
