"""check-repository finds present faults, and warns about faults to come, at the right times."""

from __future__ import annotations

import pytest

from pgpool_deb.repository import findings, gpg, stanzas
from pgpool_deb.repository.findings import Finding, FindingKind
from pgpool_deb.repository.gpg import Listed
from pgpool_deb.repository.stanzas import Stanza

NOW = 1_800_000_000
DAY = 24 * 3600
PRINT = "AB" * 20


@pytest.fixture(autouse=True)
def own() -> None:
    """No test of this module signs anything."""


def key(end: int | None, *, able: str = "scESC") -> Listed:
    """Return a key as gpg lists it, which expires at `end` and has these capabilities."""
    primary = ["pub", "-", "255", "22", "0" * 16, str(NOW - DAY), str(end or ""), "", "", "", "", able, "", "", ""]
    return Listed((primary, ["fpr", *[""] * 8, PRINT]))


@pytest.mark.parametrize(
    ("keys", "lines"),
    [
        ([], ["fault: no key in the keyring can sign"]),
        ([key(None, able="e")], ["fault: no key in the keyring can sign"]),
        ([key(None)], []),
        ([key(NOW + 60 * DAY)], []),
        ([key(NOW + 59 * DAY)], [f"warning: the key {PRINT} expires in 59 days"]),
        ([key(NOW - 1)], [f"fault: the key {PRINT} has expired"]),
    ],
    ids=("empty", "encryption only", "endless", "60 days", "59 days", "expired"),
)
def test_a_key_is_a_fault_once_it_has_expired_and_a_warning_two_months_before(
    monkeypatch: pytest.MonkeyPatch, keys: list[Listed], lines: list[str]
) -> None:
    monkeypatch.setattr(gpg, "public_keys", lambda _keyring: keys)
    assert [one.line for one in findings.of_keys(b"", NOW)] == lines


def release(until: int | None) -> str:
    return stanzas.ReleaseFields("trixie", "", ("amd64",), NOW, until).text({})


@pytest.mark.parametrize(
    ("until", "archived", "kind", "words"),
    [
        (NOW + 10 * DAY, False, None, ""),
        (NOW + 10 * DAY - 1, False, FindingKind.WARNING, "passes in 9 days; the next publish re-signs the suite"),
        (NOW, False, FindingKind.WARNING, "passes in 0 days"),
        (NOW - 2 * DAY, False, FindingKind.FAULT, "passed 2 days ago, and apt rejects the suite"),
        (None, False, FindingKind.FAULT, "apt would accept an outdated state"),
        (None, True, None, ""),
    ],
)
def test_an_expired_suite_is_a_fault_and_one_that_expires_soon_a_warning(
    until: int | None, archived: bool, kind: FindingKind | None, words: str
) -> None:
    found = list(findings.of_validity("trixie", release(until), NOW, archived=archived))
    assert [one.kind for one in found] == ([kind] if kind else [])
    assert all(one.text.startswith("trixie: ") and words in one.text for one in found)


def test_a_path_of_two_packages_is_a_fault_that_names_both() -> None:
    contents = "usr/bin/pgpool pgpool2\nusr/share/a file pgpool2,libpgpool-dev\n"
    (found,) = findings.of_owners("trixie", contents)
    assert found.line == "fault: trixie: pgpool2 and libpgpool-dev both contain /usr/share/a file"


def packages(*versions: str, package: str = "pgpool2") -> tuple[Stanza, ...]:
    return tuple(Stanza("", package, version, "amd64", version) for version in versions)


def test_a_package_that_is_newer_in_an_older_release_is_a_fault() -> None:
    suites = {
        "trixie": packages("4.7.2-50+deb13+1"),
        "bookworm": packages("4.7.1-50+deb12+1", "4.7.3-50+deb12+1"),
    }
    (found,) = findings.of_versions(suites)
    assert found.text == "pgpool2: 4.7.3-50+deb12+1 in bookworm is newer than 4.7.2-50+deb13+1 in trixie"


def test_versions_that_rise_with_the_releases_are_no_fault() -> None:
    suites = {
        "bookworm": packages("4.7.2-50+deb12+1"),
        "trixie": packages("4.7.2-50+deb13+1"),
        "sid": packages("4.8.0-50+deb15+1"),
    }
    assert list(findings.of_versions(suites)) == []


def test_only_suites_of_the_same_kind_and_packages_of_both_are_compared() -> None:
    suites = {
        "bookworm": packages("9.0-1+deb12+1", package="pgpool2-old"),
        "bookworm-testing": packages("9.0-1+deb12+1"),
        "trixie": packages("4.7.2-50+deb13+1"),
    }
    assert list(findings.of_versions(suites)) == []


def test_a_finding_is_one_line_even_for_a_file_name_with_a_line_feed() -> None:
    assert Finding("pool/a\nb is missing").line == r"fault: pool/a\nb is missing"
