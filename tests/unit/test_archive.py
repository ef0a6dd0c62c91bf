"""Where packages come from: the machine's own apt configuration, `--mirror`, and what a release's row adds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pgpool_deb.archive import KEYRING, Archive, find_archive, parse_index_targets
from pgpool_deb.errors import MachineError, UsageError
from pgpool_deb.releases import ExtraSource, ReleaseTable

TABLE = ReleaseTable.load(Path(__file__).parents[2] / "packaging" / "releases.toml")
BOTH = Archive("http://mirror.example/debian", "http://mirror.example/security")


def test_a_mirror_that_was_named_wins() -> None:
    assert find_archive("http://mirror.example/debian/") == Archive("http://mirror.example/debian", None)


@pytest.mark.parametrize("mirror", ["mirror.example/debian", "ftp://mirror.example", "", "-o", "http:/one-slash"])
def test_a_mirror_that_is_no_uri_is_wrong_usage(mirror: str) -> None:
    with pytest.raises(UsageError, match="is not a URI"):
        find_archive(mirror)


def test_this_machines_apt_names_an_archive() -> None:
    archive = find_archive(None)
    assert "://" in archive.mirror or archive.mirror.startswith(("file:", "copy:"))
    assert not archive.mirror.endswith("/")


def test_debians_archives_are_told_from_others_and_from_each_other() -> None:
    answer = "\n".join(
        [
            "http://vendor.example/apt/|stable|Vendor",
            "http://mirror.example/security/|bookworm-security|Debian",
            "http://mirror.example/debian/|bookworm|Debian",
            "http://second.example/debian/|bookworm|Debian",
        ]
    )
    assert parse_index_targets(answer) == BOTH


def test_a_machine_that_never_asked_its_archive_has_one_all_the_same() -> None:
    assert parse_index_targets("http://mirror.example/debian/|trixie|") == replace(BOTH, security=None)


def test_a_machine_without_debians_archive_is_told_about_mirror() -> None:
    with pytest.raises(MachineError) as raised:
        parse_index_targets("http://vendor.example/apt/|stable|Vendor")
    assert "--mirror" in raised.value.hint


def test_every_suite_is_a_line_signed_by_debians_keyring() -> None:
    lines = BOTH.sources(TABLE.named("trixie"))
    assert lines == [
        f"deb [signed-by={KEYRING}] http://mirror.example/debian trixie main",
        f"deb [signed-by={KEYRING}] http://mirror.example/debian trixie-updates main",
        f"deb [signed-by={KEYRING}] http://mirror.example/security trixie-security main",
    ]


def test_without_a_security_archive_its_suite_is_left_out() -> None:
    lines = replace(BOTH, security=None).sources(TABLE.named("trixie"))
    assert [line.split()[3] for line in lines] == ["trixie", "trixie-updates"]


def test_a_suite_past_its_valid_until_is_still_verified() -> None:
    (line,) = BOTH.sources(TABLE.named("sid"))
    assert f"signed-by={KEYRING}" in line
    assert "check-valid-until=no" in line
    assert "trusted" not in line


def test_an_archived_release_comes_from_the_archive_its_row_names() -> None:
    old = replace(TABLE.named("trixie"), archive="http://old.example/debian", suites=("trixie",))
    assert BOTH.sources(old) == [f"deb [signed-by={KEYRING}] http://old.example/debian trixie main"]


def test_an_extra_source_is_one_more_line_a_suite() -> None:
    extra = ExtraSource(
        uri="http://pgdg.example/apt",
        suites=("trixie-pgdg",),
        components=("main", "16"),
        signed_by="/etc/pgdg.asc",
        trusted=False,
        priority=None,
        packages=(),
    )
    from_mirror = replace(extra, uri="mirror", suites=("trixie-backports",), components=("main",), signed_by=None)
    lines = BOTH.sources(replace(TABLE.named("trixie"), extra=(extra, from_mirror)))
    assert lines[-2:] == [
        "deb [signed-by=/etc/pgdg.asc] http://pgdg.example/apt trixie-pgdg main 16",
        f"deb [signed-by={KEYRING}] http://mirror.example/debian trixie-backports main",
    ]
