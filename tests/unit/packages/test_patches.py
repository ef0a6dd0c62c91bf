"""A source gets the patches that fit it, and a package lists the ones that it lacks."""

from __future__ import annotations

import io
import json
import re
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from debian.changelog import Changelog
from tests.unit.packages.test_debianize import TEMPLATES, TRIXIE
from tests.unit.upstream.tarballs import release

from pgpool_deb.boxes import machine
from pgpool_deb.builds import plan
from pgpool_deb.builds.plan import BuildRequest
from pgpool_deb.builds.workshop import BuildState, CellOutcome, Outcome
from pgpool_deb.ground.cache import Cache
from pgpool_deb.ground.errors import ExitStatus, PackageError
from pgpool_deb.ground.project import Project
from pgpool_deb.ground.releases import ReleaseTable
from pgpool_deb.packages import patches, pgpool2
from pgpool_deb.packages.patches import Fit, Patch
from pgpool_deb.runs import build_deb, report
from pgpool_deb.upstream.pins import Pins
from pgpool_deb.upstream.sources import Source

HERE = Project(Path(__file__).parents[3])
SHA256 = "c" * 64


def patch(name: str, old: str, new: str, file: str = "src/main.c") -> Patch:
    hunk = f"@@ -1,3 +1,3 @@\n one\n-{old}\n+{new}\n three\n"
    text = f"Description: x\nX-Without: w\n---\n--- a/{file}\n+++ b/{file}\n{hunk}"
    return Patch(name, text, f"no {name}", relied_on=False)


def tarball(tmp_path: Path, **files: str) -> Path:
    path = tmp_path / "pgpool.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in {"src/main.c": "zero\none\ntwo\nthree\n", **files}.items():
            member = tarfile.TarInfo(f"pgpool-II-4.8/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


def names(found: tuple[Patch, ...]) -> list[str]:
    return [patch.name for patch in found]


def test_patches_that_do_not_fit_and_patches_in_upstream_are_distinguished(tmp_path: Path) -> None:
    fits, no_fit = patch("fits", "two", "TWO"), patch("no-fit", "other", "TWO")
    there = patch("there", "TWO", "two")  # the tarball already has the one line that it changes
    follows, gone = patch("follows", "TWO", "2"), patch("gone", "two", "TWO", "src/gone.c")
    result = patches.fit([there, fits, follows, no_fit, gone], tarball(tmp_path), SHA256, tmp_path / "cache")
    assert names(result.left_out) == ["no-fit", "gone"]
    assert names(result.upstream) == ["there"]
    assert not result.proved


def test_a_patch_that_needs_a_left_out_one_is_left_out(tmp_path: Path) -> None:
    first, second = patch("first", "other", "TWO"), patch("second", "TWO", "2")
    result = patches.fit([first, second], tarball(tmp_path), SHA256, tmp_path / "cache")
    assert names(result.left_out) == ["first", "second"]


@pytest.mark.parametrize("taken", [("src/main.c",), ("src/other.c",)])
def test_a_patch_that_upstream_has_in_part_is_left_out(tmp_path: Path, taken: tuple[str, ...]) -> None:
    halves = {name: patch("half", "two", "TWO", name).text for name in ("src/main.c", "src/other.c")}
    whole = Patch("half", "".join(halves.values()), "w", relied_on=False)
    there = {name: f"zero\none\n{'TWO' if name in taken else 'two'}\nthree\n" for name in halves}
    result = patches.fit([whole], tarball(tmp_path, **there), SHA256, tmp_path / "cache")
    assert names(result.left_out) == ["half"]
    everything = dict.fromkeys(halves, "zero\none\nTWO\nthree\n")
    result = patches.fit([whole], tarball(tmp_path, **everything), "d" * 64, tmp_path / "cache")
    assert names(result.upstream) == ["half"]


def test_patches_apply_without_fuzz(tmp_path: Path) -> None:
    text = patch("near", "two", "TWO").text.replace(" three\n", " other\n")
    result = patches.fit([Patch("near", text, "w", relied_on=False)], tarball(tmp_path), SHA256, tmp_path / "cache")
    assert names(result.left_out) == ["near"]


def test_a_source_is_tried_once_for_the_same_patches(tmp_path: Path) -> None:
    path, one = tarball(tmp_path), patch("one", "2", "TWO")
    first = patches.fit([one], path, SHA256, tmp_path / "cache")
    path.unlink()
    assert patches.fit([one], path, SHA256, tmp_path / "cache") == first
    with pytest.raises(FileNotFoundError):
        patches.fit([patch("one", "two", "TWO")], path, SHA256, tmp_path / "cache")


def test_a_link_in_an_untrusted_tarball_is_not_followed(tmp_path: Path) -> None:
    path, outside = tmp_path / "pgpool.tar.gz", tmp_path / "outside"
    outside.write_text("zero\none\ntwo\nthree\n")
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("top/src/main.c")
        member.type, member.linkname = tarfile.SYMTYPE, str(outside)
        archive.addfile(member)
    result = patches.fit([patch("fits", "two", "TWO")], path, SHA256, tmp_path / "cache")
    assert names(result.left_out) == ["fits"]
    assert outside.read_text() == "zero\none\ntwo\nthree\n"


def test_every_patch_states_its_loss() -> None:
    for path in (TEMPLATES / "patches").glob("*.patch"):
        result = Patch.read(path)
        assert 0 < len(result.without) <= 105
        assert not result.without.endswith(".")
        assert result.touches


FIELDS = {
    "Description": "Mend it",
    "X-Without": "it is broken",
    "X-Tested-By": "tests/cluster/test_x.py::test_y,\n tests/install/test_x.py::test_z",
    "Forwarded": "no",
    "Last-Update": "2026-11-29",
}
WRONG = [
    ("Description", None),
    ("X-Without", None),
    ("X-Without", "two\n lines"),
    ("X-Tested-By", None),
    ("X-Tested-By", "a test"),
    ("X-Tested-By", "none"),
    ("Forwarded", None),
    ("Forwarded", "perhaps"),
    ("Last-Update", "yesterday"),
]


def header(fields: dict[str, str | None]) -> str:
    lines = "".join(f"{name}: {value}\n" for name, value in fields.items() if value is not None)
    return f"{lines}---\n--- a/f\n+++ b/f\n@@ -1 +1,2 @@\n-one\n+two\n+three\n"


def test_a_header_is_parsed(tmp_path: Path) -> None:
    folded = "Mend it\n It was\n broken.\n .\n To see it: look."
    (tmp_path / "x.patch").write_text(header({**FIELDS, "Description": folded}))
    result = Patch.read(tmp_path / "x.patch")
    assert (result.title, result.forwarded, result.updated) == ("Mend it", "no", "2026-11-29")
    assert result.description == "Mend it\n\nIt was\nbroken.\n\nTo see it: look."
    assert result.tests == ("tests/cluster/test_x.py::test_y", "tests/install/test_x.py::test_z")
    assert result.size == (2, 1)


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_a_header_without_a_required_field_is_an_error(tmp_path: Path, field: str, value: str | None) -> None:
    (tmp_path / "x.patch").write_text(header({**FIELDS, field: value}))
    with pytest.raises(ValueError, match=rf"x\.patch: {field} must "):
        Patch.read(tmp_path / "x.patch")


def test_every_header_has_the_parts_of_a_mail() -> None:
    for path in (TEMPLATES / "patches").glob("*.patch"):
        result = Patch.read(path)
        assert len(result.title) <= 72, path
        assert not result.title.endswith("."), path
        assert "\n\nTo see it: " in result.description, path
        assert max(map(len, result.description.splitlines())) <= 79, path


def test_the_tests_that_patches_name_exist() -> None:
    for path in (TEMPLATES / "patches").glob("*.patch"):
        for test in Patch.read(path).tests:
            file, _, name = test.partition("::")
            assert f"\ndef {name}(" in (HERE.path / file).read_text(), (path, test)


def test_a_proved_version_names_the_patches_of_the_series() -> None:
    """After a change of the patches, the version must be proved again or lose `proved`."""
    for pin in Pins.load(HERE.sources).pins:
        if pin.proved is not None:
            assert pin.proved == tuple(names(patches.chosen(TEMPLATES, pin.version))), pin.version


# --- the package's list of patches

LEFT_OUT = Fit(left_out=tuple(p for p in patches.chosen(TEMPLATES, "4.6.1") if p.name in ("notify-ready", "one-write")))


def test_a_missing_patch_is_listed_everywhere_in_the_package() -> None:
    files = pgpool2.render(TEMPLATES, TRIXIE, LEFT_OUT)
    series = files["patches/series"].content.decode().split()
    assert "one-write.patch" not in series
    assert "patches/one-write.patch" not in files
    listed = json.loads(files["patches.json"].content)
    assert listed["left_out"].keys() == {"notify-ready", "one-write"}
    assert listed["patches"] == [name.removesuffix(".patch") for name in series]
    readme = files["README.Debian"].content.decode()
    assert "one-write: a simple query is answered with three writes" in readme
    assert max(map(len, readme.splitlines())) <= 92
    assert "Type=exec\nTimeout" in files["pgpool2.service"].content.decode()
    assert b"debian/patches.json" in files["pgpool2.install"].content


def test_a_package_whose_source_contains_the_patch_notifies_systemd() -> None:
    there = Fit(upstream=LEFT_OUT.left_out)
    assert "Type=notify\nTimeout" in pgpool2.render(TEMPLATES, TRIXIE, there)["pgpool2.service"].content.decode()


def test_a_package_with_all_patches_lacks_nothing() -> None:
    files = pgpool2.render(TEMPLATES, TRIXIE, Fit(proved=True))
    listed = json.loads(files["patches.json"].content)
    assert (listed["proved"], listed["left_out"], listed["upstream"]) == (True, {}, [])
    assert "lacks" not in files["README.Debian"].content.decode()
    assert files["README.Debian"].content.endswith(b"/etc/default/pgpool2.\n")
    assert "served. With a watchdog, that is once the leader is known.\nType=notify\nTimeout" in (
        files["pgpool2.service"].content.decode()
    )


def the_cell(source: Source, fit: Fit) -> plan.Cell:
    table = ReleaseTable.load(HERE.releases)
    (cell,) = plan.cells(BuildRequest(releases=("trixie",)), table, source, "trixie", HERE, fit)
    return cell


SOURCE = Source("4.6.1", Path("/pgpool2.tar.gz"), "gz", SHA256, False, 1_747_310_400, "a tarball", False)


def test_changelog_and_summary_name_left_out_patches() -> None:
    cell = the_cell(SOURCE, LEFT_OUT)
    changelog = cell.pgpool2.files["debian/changelog"].content.decode()
    assert "has not passed the tests" in changelog
    assert "one-write.patch does not fit and is left out: a simple query" in " ".join(changelog.split())
    assert max(len(line) for line in changelog.splitlines() if not line.startswith(" --")) <= 80
    assert Changelog(changelog, strict=True).version == cell.pgpool2.debian_version
    outcome = Outcome(cell.pgpool2, BuildState.UNCHANGED, 0.0, Path("/log"))
    (row,) = report.summary([CellOutcome(cell, (outcome,))], Path("/dist"))["cells"]
    assert row["proved"] is False
    assert row["left_out"][1] == {
        "patch": "one-write",
        "missing": "a simple query is answered with three writes instead of one",
    }


# --- the output of build-deb


@pytest.fixture
def fitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Return how build-deb fits the patches to a source, and the lines that it prints."""
    monkeypatch.setattr(machine, "require", lambda *_, **__: None)
    cache = Cache(tmp_path / "cache")

    def fit(source: Source, *, strict: bool = False) -> tuple[Fit, str]:
        pins = Pins.load(HERE.sources)
        result = build_deb._fit(HERE, pins, source, BuildRequest(strict=strict), cache)
        return result, capsys.readouterr().out

    return fit


def test_the_patches_of_a_proved_release_are_not_tried(fitted: Any) -> None:
    pin = next(pin for pin in Pins.load(HERE.sources).pins if pin.proved is not None)
    result, output = fitted(replace(SOURCE, version=pin.version, sha256=pin.sha256))
    assert (result, output) == (Fit(proved=True), "")


def test_an_unproved_source_is_reported_with_its_left_out_patches(fitted: Any, tmp_path: Path) -> None:
    result, output = fitted(replace(SOURCE, tarball=tarball(tmp_path)))
    lines = output.splitlines()
    assert lines[0] == "warning: pgpool-II 4.6.1 has not passed the tests of this project"
    assert f"warning: one-write.patch does not fit and is left out: {result.left_out[5].without}" in lines
    assert len(lines) == 1 + len(result.left_out)


def test_explain_installs_nothing_and_reports_unknown_patches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PGPOOL_DEB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(machine.Tool, "there", lambda _: False)
    source = release(tmp_path / "pgpool.tar.gz", "4.6.1")
    assert build_deb.explain(HERE, BuildRequest(releases=("trixie",), source=source)) is ExitStatus.GOOD
    output = capsys.readouterr().out
    assert re.search(r"^trixie-\S+: unknown: patch\(1\) is missing, .*apt-get install patch", output, re.MULTILINE)
    assert "\ntrixie-pgpool2-cluster: will be built" in output


def test_strict_makes_a_patch_that_does_not_fit_an_error(fitted: Any, tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"^patches do not fit pgpool-II 4\.6\.1: debian-paths, socket") as caught:
        fitted(replace(SOURCE, tarball=tarball(tmp_path)), strict=True)
    assert "omit --strict" in caught.value.hint
