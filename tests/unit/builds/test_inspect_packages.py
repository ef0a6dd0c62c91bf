"""The files of a build are kept only if all of them are there, intact and of the right version."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pgpool_deb.builds import inspect_packages
from pgpool_deb.ground.errors import ExitStatus, PackageError
from pgpool_deb.runs.small_packages import deb, upload
from pgpool_deb.upstream.download import sha256_of

VERSION = "4.7.2-50+deb13+1"
BINARIES = ("pgpool2", "libpgpool-dev")
DEV = f"libpgpool-dev_{VERSION}_amd64.deb"


@pytest.fixture
def changes(tmp_path: Path) -> Path:
    return upload(tmp_path, VERSION, binaries=BINARIES)


def refusal(changes: Path) -> PackageError:
    with pytest.raises(PackageError) as raised:
        inspect_packages.check(changes, version=VERSION, binaries=BINARIES)
    assert (raised.value.hint, raised.value.exit_status) == ("read build.log", ExitStatus.FAILED)
    return raised.value


def without(changes: Path, ending: str) -> None:
    lines = changes.read_text().splitlines(keepends=True)
    changes.write_text("".join(line for line in lines if not line.endswith(f"{ending}\n")))


def test_all_files_of_a_complete_build_are_kept_and_no_others(changes: Path, tmp_path: Path) -> None:
    built = set(tmp_path.iterdir())
    (tmp_path / "core").write_text("a file that no .changes names")
    files = inspect_packages.check(changes, version=VERSION, binaries=BINARIES)
    assert files[0] == changes
    assert set(files) == built


@pytest.mark.parametrize(
    "harm",
    [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1])],
    ids=("missing", "truncated"),
)
def test_a_file_that_the_changes_does_not_match_is_named(
    changes: Path, tmp_path: Path, harm: Callable[[Path], object]
) -> None:
    harm(tmp_path / DEV)
    assert refusal(changes).message == f"{changes.name} does not match the file {DEV}"


def test_a_changes_cannot_name_a_file_in_another_folder(changes: Path, tmp_path: Path) -> None:
    outside = tmp_path.parent / "letter"
    outside.write_text("dear")
    with changes.open("a") as handle:
        handle.write(f" {sha256_of(outside)} 4 ../letter\n")
    assert refusal(changes).message == f"{changes.name} does not match the file ../letter"


def test_a_promised_package_that_was_not_built_is_named(changes: Path) -> None:
    without(changes, DEV)
    assert refusal(changes).message == "the build produced no libpgpool-dev"


def test_a_package_of_another_version_is_refused(changes: Path, tmp_path: Path) -> None:
    before = sha256_of(tmp_path / DEV)
    other = deb(tmp_path, "libpgpool-dev", "4.7.1-1").rename(tmp_path / DEV)
    changes.write_text(changes.read_text().replace(before, sha256_of(other)))
    assert refusal(changes).message == f"libpgpool-dev has version 4.7.1-1, not {VERSION}"


def test_a_build_without_its_source_package_is_refused(changes: Path) -> None:
    without(changes, ".dsc")
    assert refusal(changes).message == "the build produced no source package"
