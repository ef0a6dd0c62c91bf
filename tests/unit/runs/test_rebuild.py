"""The comparison of a rebuild, and packages that cannot be verified."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pgpool_deb.ground.errors import MachineError, UsageError
from pgpool_deb.ground.releases import ReleaseTable
from pgpool_deb.runs import deb_differences, rebuild
from pgpool_deb.runs.small_packages import deb
from pgpool_deb.upstream.download import sha256_of

INFO = """Format: 1.0
Source: pgpool2
Version: 4.7.2-50+deb13+1
Checksums-Sha256:
 {dsc} 3 pgpool2_1.dsc
 {deb} 4 pgpool2_1_amd64.deb
Build-Path: {path}
Installed-Build-Depends:
 bash (= 5.2-1),
 libc6:amd64 (= 2.41-12)
Environment:
 LC_ALL="C.UTF-8"
 SOURCE_DATE_EPOCH="1795348800"
"""


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Make a folder with a .deb, its .buildinfo and its .dsc."""
    made = deb(tmp_path, "pgpool2", "1")
    (tmp_path / "pgpool2_1.dsc").write_text("abc")
    info = INFO.format(dsc=sha256_of(tmp_path / "pgpool2_1.dsc"), deb=sha256_of(made), path="/build/pgpool2")
    (tmp_path / "pgpool2_1_amd64.buildinfo").write_text(info)
    return tmp_path


def test_a_buildinfo_is_parsed(published: Path) -> None:
    (record,) = rebuild.records(published / "pgpool2_1_amd64.deb")
    assert record.installed == {"bash=5.2-1", "libc6=2.41-12"}
    assert record.environment == {"LC_ALL": "C.UTF-8", "SOURCE_DATE_EPOCH": "1795348800"}
    assert rebuild.release_of(record, ReleaseTable.load(Path("packaging/releases.toml"))).name == "trixie"
    assert rebuild.records(published) == [record]


def no_source(folder: Path) -> None:
    (folder / "pgpool2_1.dsc").unlink()


def no_record(folder: Path) -> None:
    (folder / "pgpool2_1_amd64.buildinfo").unlink()


def path_outside(folder: Path) -> None:
    info = folder / "pgpool2_1_amd64.buildinfo"
    info.write_text(info.read_text().replace("/build/pgpool2", "/root"))


def name_outside(folder: Path) -> None:
    info = folder / "pgpool2_1_amd64.buildinfo"
    info.write_text(info.read_text().replace(" pgpool2_1.dsc", " ../pgpool2_1.dsc"))


def nothing_said(folder: Path) -> None:
    (folder / "pgpool2_1_amd64.buildinfo").write_text("")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (no_source, "names pgpool2_1.dsc, which is not beside it"),
        (no_record, "contains no .buildinfo file"),
        (path_outside, "contains paths that no build of this project has"),
        (name_outside, "contains paths that no build of this project has"),
        (nothing_said, "is not a valid .buildinfo file"),
    ],
)
def test_a_package_that_cannot_be_verified_is_reported(
    published: Path, harm: Callable[[Path], None], message: str
) -> None:
    harm(published)
    with pytest.raises(UsageError, match=re.escape(message)):
        rebuild.records(published)


def test_the_first_difference_is_reported_with_file_and_byte(published: Path, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    again = deb(tmp_path / "again", "pgpool2", "1", text="as Built\n")
    assert deb_differences.first_difference(published / "pgpool2_1_amd64.deb", again) == (
        "data.tar: ./usr/share/pgpool2/text: byte 3"
    )
    (record,) = rebuild.records(published)
    assert rebuild.compared(record, published / again.name, published / again.name) == "the same bytes"
    assert rebuild.compared(record, published / again.name, tmp_path / "none") == "the rebuild produced no such package"


def test_diffoscope_reports_all_differences_if_it_is_installed(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """diffoscope writes the given report; a difference is not a failure, but any other exit status is one."""
    programs, report = tmp_path / "programs", tmp_path / "report"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setattr(deb_differences, "DIFFOSCOPE", "diffoscope-of-this-test")
    one = published / "pgpool2_1_amd64.deb"
    assert not deb_differences.described(one, one, report)
    program = programs / "diffoscope-of-this-test"
    program.write_text(
        '#!/bin/sh\nfor word; do case $word in --text=*) echo differs >"${word#*=}" ;; esac; done\nexit 1\n'
    )
    program.chmod(0o755)
    assert deb_differences.described(one, one, report)
    assert report.read_text() == "differs\n"
    program.write_text("#!/bin/sh\necho 'no such file' >&2\nexit 2\n")
    with pytest.raises(MachineError, match="diffoscope failed: no such file"):
        deb_differences.described(one, one, report)
