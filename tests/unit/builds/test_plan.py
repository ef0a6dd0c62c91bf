"""A request is turned into cells."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgpool_deb.builds import plan
from pgpool_deb.builds.plan import BuildRequest, Cell
from pgpool_deb.ground.errors import MachineError, UsageError
from pgpool_deb.ground.project import Project
from pgpool_deb.ground.releases import ReleaseTable
from pgpool_deb.upstream.sources import Source

HERE = Project(Path(__file__).parents[3])
TABLE = ReleaseTable.load(HERE.releases)
SOURCE = Source("4.6.1", Path("/pgpool2.tar.gz"), "gz", "a" * 64, True, 1_747_310_400, "release 4.6.1", False)
ROOT = ("gcc=14", "make=4.4")


def cells_of(request: BuildRequest, machine: str = "bookworm", source: Source = SOURCE) -> tuple[Cell, ...]:
    return plan.cells(request, TABLE, source, machine, HERE)


@given(st.sets(st.integers(10, 99), min_size=1), st.sampled_from([",", ", ", " ,"]))
def test_majors_are_parsed_sorted_and_deduplicated(majors: set[int], comma: str) -> None:
    words = [str(major) for major in majors]
    assert plan.parse_majors(comma.join([*words, *words])) == tuple(sorted(majors))


@given(st.text().filter(lambda text: not re.fullmatch(r"\s*[1-9][0-9]\s*(,\s*[1-9][0-9]\s*)*", text)))
def test_a_malformed_list_of_majors_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--pg "):
        plan.parse_majors(text)


def test_releases_are_parsed_in_the_given_order() -> None:
    assert plan.parse_releases("sid, trixie") == ("sid", "trixie")
    assert plan.parse_releases(None) == ()
    assert plan.parse_majors(None) == ()


@pytest.mark.parametrize("text", ["", " ", ",", "sid,", ",sid", "sid,,trixie"])
def test_an_empty_name_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError, match=r"contains an empty name\nhint: separate names by commas: --release A,B$"):
        plan.parse_releases(text)


def test_each_requested_release_has_one_cell() -> None:
    cells = cells_of(BuildRequest(releases=("sid", "trixie", "sid")))
    assert [cell.name.split("-")[0] for cell in cells] == ["sid", "trixie"]
    assert cells[1].majors == TABLE.named("trixie").postgresql


@pytest.mark.parametrize(
    ("machine", "expected"), [("bookworm", "bookworm"), ("noble", TABLE.stable.name), ("", TABLE.stable.name)]
)
def test_the_default_is_the_machines_own_release_else_stable(machine: str, expected: str) -> None:
    assert [cell.release.name for cell in cells_of(BuildRequest(), machine)] == [expected]


def test_requested_majors_must_be_in_the_releases_row() -> None:
    assert cells_of(BuildRequest(releases=("trixie",), majors=(17,)))[0].majors == (17,)
    with pytest.raises(UsageError, match=r"^PostgreSQL 15 is not available for trixie\nhint: .*lists 17 there"):
        cells_of(BuildRequest(releases=("bookworm", "trixie"), majors=(15,)))


def test_the_name_of_a_cell_has_release_architecture_and_version() -> None:
    cell = cells_of(BuildRequest(releases=("trixie",)))[0]
    assert cell.name == f"trixie-{plan.machine_architecture()}-4.6.1"
    assert cell.pgpool2.debian_version.startswith("4.6.1-")


def test_the_root_of_pgpool2_has_ccache_and_the_build_dependencies() -> None:
    dependencies = cells_of(BuildRequest(releases=("trixie",)))[0].pgpool2.dependencies
    assert {"build-essential", "ccache"} < set(dependencies)
    assert any(line.startswith("debhelper-compat") for line in dependencies)
    assert all(line.strip() == line != "" for line in dependencies)


def test_a_cell_has_the_documented_packages() -> None:
    cell = cells_of(BuildRequest(releases=("trixie",)))[0]
    assert {"pgpool2", "libpgpool-dev", "postgresql-17-pgpool2"} < set(cell.pgpool2.binaries)
    assert cell.packages[1].binaries == ("pgpool2-cluster",)


def test_a_release_with_an_old_python_has_no_cluster_package() -> None:
    bullseye = replace(TABLE.named("bookworm"), name="bullseye", number=11)
    table = replace(TABLE, releases=(*TABLE.releases, bullseye))
    cells = plan.cells(BuildRequest(releases=("bullseye", "bookworm")), table, SOURCE, "", HERE)
    assert [len(cell.packages) for cell in cells] == [1, 2]


def test_the_root_of_the_cluster_package_has_build_essential() -> None:
    """Otherwise its .buildinfo lacks build-essential, and dpkg-buildpackage refuses a root made from it."""
    dependencies = cells_of(BuildRequest(releases=("trixie",)))[0].packages[1].dependencies
    assert {"dh-sequence-python3", "build-essential"} < set(dependencies)
    assert "ccache" not in dependencies


@pytest.mark.parametrize(
    ("what", "changed"),
    [
        ("nothing", set()),
        ("source", {"pgpool2"}),
        ("majors", {"pgpool2"}),
        ("release", {"pgpool2", "pgpool2-cluster"}),
        ("root", {"pgpool2", "pgpool2-cluster"}),
    ],
)
def test_inputs_differ_exactly_if_the_packages_could(what: str, changed: set[str]) -> None:
    two_majors = replace(TABLE.named("trixie"), postgresql=(16, 17))
    table = replace(TABLE, releases=(two_majors, TABLE.named("sid")))
    request = BuildRequest(releases=("trixie",), majors=(17,))
    (cell,) = plan.cells(request, table, SOURCE, "", HERE)
    source, root = SOURCE, ROOT
    if what == "source":
        source = replace(SOURCE, sha256="b" * 64)
    elif what == "majors":
        request = replace(request, majors=(16, 17))
    elif what == "release":
        request = BuildRequest(releases=("sid",))
    elif what == "root":
        root = ("gcc=15", "make=4.4")
    (other,) = plan.cells(request, table, source, "", HERE)
    pairs = zip(cell.packages, other.packages, strict=True)
    assert {one.source for one, two in pairs if one.inputs(ROOT) != two.inputs(root)} == changed


@pytest.mark.parametrize(
    ("path", "changed"),
    [
        ("debian-templates/pgpool2/rules.j2", {"pgpool2"}),
        ("debian-templates/pgpool2-cluster/rules", {"pgpool2-cluster"}),
        ("config-templates/pgpool.conf.j2", {"pgpool2-cluster"}),
        ("scripts/pgpool_cluster/decision/decide.py", {"pgpool2-cluster"}),
        ("scripts/pgpoolctl", {"pgpool2-cluster"}),
        ("scripts/pgpool_cluster/new.py", {"pgpool2-cluster"}),
        ("scripts/pgpool_cluster/__pycache__/decide.pyc", set()),
        ("scripts/.mypy_cache/x", set()),
        ("docs/reference/cluster.yml.md", {"pgpool2-cluster"}),
        ("docs/index.md", set()),
    ],
)
def test_a_file_of_the_checkout_is_an_input_only_of_its_own_package(
    tmp_path: Path, path: str, changed: set[str]
) -> None:
    for name in ("config-templates", "scripts", "debian-templates", "docs", "pyproject.toml"):
        copy = shutil.copytree if (HERE.path / name).is_dir() else shutil.copyfile
        copy(HERE.path / name, tmp_path / name)
    (tmp_path / "packaging").mkdir()
    shutil.copyfile(HERE.sources, tmp_path / "packaging" / "sources.toml")
    request = BuildRequest(releases=("trixie",))
    (cell,) = plan.cells(request, TABLE, SOURCE, "", Project(tmp_path))
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    with (tmp_path / path).open("a", encoding="utf-8") as file:
        file.write("# touched\n")
    (other,) = plan.cells(request, TABLE, SOURCE, "", Project(tmp_path))
    pairs = zip(cell.packages, other.packages, strict=True)
    assert {one.source for one, two in pairs if one.inputs(ROOT) != two.inputs(ROOT)} == changed


def test_each_package_of_the_root_is_a_named_input() -> None:
    inputs = cells_of(BuildRequest(releases=("trixie",)))[0].pgpool2.inputs(ROOT)
    assert inputs["package gcc"] == "14"
    assert "4.6.1" in inputs["pgpool-II"]


def test_a_missing_dpkg_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError, match=r"^dpkg is not installed\nhint: "):
        plan.machine_architecture()
