"""Versions are derived from the version that a source states."""

from __future__ import annotations

import re

import pytest
from debian.debian_support import Version
from hypothesis import given
from hypothesis import strategies as st

from pgpool_deb.upstream.upstream_version import (
    PreRelease,
    Snapshot,
    UpstreamVersion,
    is_named_in,
    of_commit,
    of_local_content,
    parse,
    parse_tag,
    stated_in,
)

COMMIT = "0a1b2c3d" + 32 * "4"
DAY = 1748736000  # 2025-06-01


def understood(text: str) -> UpstreamVersion:
    version = parse(text)
    assert version
    return version


# From upstream's real repository: the tag, AC_INIT at the tag, and our version.
@pytest.mark.parametrize(
    ("tag", "stated", "version"),
    [
        ("V4_6_1", "4.6.1", "4.6.1"),
        ("V4_3_20", "4.3.20", "4.3.20"),
        ("V4_7_0_RC1", "4.7RC1", "4.7.0~rc1"),
        ("V4_7_0_BETA1", "4.7beta1", "4.7.0~beta1"),
        ("V4_0_0_ALPHA2", "4.0alpha2", "4.0.0~alpha2"),
        ("V3_6_0_ALPHA1", "3.6-alpha1", "3.6.0~alpha1"),
    ],
)
def test_a_tag_and_configure_ac_give_the_same_version(tag: str, stated: str, version: str) -> None:
    assert str(parse_tag(tag)) == str(parse(stated)) == version


def test_a_devel_version_sorts_below_all_versions_of_its_release() -> None:
    assert str(parse("4.8devel")) == str(parse("4.8.0devel")) == "4.8~devel"


@pytest.mark.parametrize(
    "tag", ["V4_6_1_RPM", "V4_7_0_RC1_RPM", "v4.6.1", "4_1_0_RC1", "ROOT_OF_V2_0", "V4", "", "V4_6_1\n"]
)
def test_other_tags_name_no_version(tag: str) -> None:
    assert parse_tag(tag) is None


@pytest.mark.parametrize("text", ["", "4", "4.6.1-acme", "m4_esyscmd", "4.6.1; rm -rf /", "4.6.1\n", "٤.٦"])
def test_other_texts_state_no_version(text: str) -> None:
    assert parse(text) is None


@pytest.mark.parametrize(
    ("configure_ac", "configure", "stated"),
    [
        ("dnl x\nAC_INIT([pgpool-II], [4.6.1], [a@b], [pgpool-II])\n", None, "4.6.1"),
        ("AC_INIT(pgpool-II, 4.6.1)\n", None, "4.6.1"),
        ("AC_INIT( [pgpool-II] ,\n  [4.8devel])\n", None, "4.8devel"),
        (None, "# Identity\nPACKAGE_NAME='pgpool-II'\nPACKAGE_TARNAME='pgpool-II'\nPACKAGE_VERSION='4.3.5'\n", "4.3.5"),
        ("AC_INIT([postgres], [17.1])\n", None, None),
        ("dnl AC_INIT([pgpool-II], [4.6.1])\n", None, None),
        (None, "PACKAGE_NAME='bison'\nPACKAGE_VERSION='3.8'\n", None),
        (None, None, None),
    ],
)
def test_the_stated_version_is_found(configure_ac: str | None, configure: str | None, stated: str | None) -> None:
    assert stated_in(configure_ac, configure) == stated


@pytest.mark.parametrize(
    ("name", "stated"),
    [
        ("pgpool-II-4.6.1.tar.gz", "4.6.1"),
        ("pgpool-II-4.6.1", "4.6.1"),
        ("pgpool2_4.6.1.orig.tar.xz", "4.6.1"),
        ("pgpool2_4.7.0~rc1.orig.tar.gz", "4.7RC1"),
        ("pgpool2-V4_7_0_RC1", "4.7RC1"),
        ("V4_6_1.tgz", "4.6.1"),
        ("pgpool-II-4.7beta1.tar.gz", "4.7beta1"),
    ],
)
def test_names_with_a_version_are_recognised(name: str, stated: str) -> None:
    assert is_named_in(understood(stated), name)


@pytest.mark.parametrize(
    ("name", "stated"),
    [
        ("pgpool-II-4.6.1.tar.gz", "4.6.2"),
        ("pgpool-II-4.6.1-patched.tar.gz", "4.6.1"),
        ("pgpool2-V4_6_STABLE", "4.6.0"),
        ("pgpool2-0a1b2c3d", "4.6.1"),
        ("pgpool2-4.8devel.tar.gz", "4.8devel"),
        ("source.tar.gz", "4.6.1"),
    ],
)
def test_names_without_a_version_are_not_recognised(name: str, stated: str) -> None:
    assert not is_named_in(understood(stated), name)


@pytest.mark.parametrize(
    ("stated", "snapshot", "version"),
    [
        ("4.6.1", Snapshot(COMMIT, DAY, ["V4_6_1", "V4_6_1_RPM", "mine"]), "4.6.1"),
        ("4.7RC1", Snapshot(COMMIT, DAY, ["V4_7_0_RC1"]), "4.7.0~rc1"),
        ("4.6.1", Snapshot(COMMIT, DAY), "4.6.1+git20250601.0a1b2c3d"),
        ("4.6.1", Snapshot(COMMIT, DAY, ["V4_6_0"]), "4.6.1+git20250601.0a1b2c3d"),
        ("4.6.2", Snapshot(COMMIT, DAY, before_tag=True), "4.6.2~untagged+git20250601.0a1b2c3d"),
        ("4.8devel", Snapshot(COMMIT, DAY), "4.8~devel+git20250601.0a1b2c3d"),
        ("4.6.1", Snapshot(COMMIT, DAY, ["V4_6_1"], dirty="f" * 64), "4.6.1+git20250601.0a1b2c3d.dirtyffffffff"),
    ],
)
def test_versions_of_commits(stated: str, snapshot: Snapshot, version: str) -> None:
    assert of_commit(understood(stated), snapshot) == version


def test_the_whole_life_of_a_release_sorts_in_its_order() -> None:
    def commit(stated: str, date: int = DAY, *, before_tag: bool = False, dirty: str | None = None) -> str:
        return of_commit(understood(stated), Snapshot(COMMIT, date, before_tag=before_tag, dirty=dirty))

    life = [
        "4.6.9",
        "4.7~devel",
        commit("4.7devel"),
        commit("4.7devel", DAY + 86400),
        "4.7.0~alpha1",
        commit("4.7beta1", before_tag=True),
        "4.7.0~beta1",
        commit("4.7beta1"),
        "4.7.0~beta2",
        "4.7.0~rc1",
        commit("4.7RC1"),
        commit("4.7RC1", dirty="0" * 64),
        commit("4.7.0", before_tag=True),
        "4.7.0",
        commit("4.7.0"),
        commit("4.7.0", dirty="0" * 64),
        of_local_content(understood("4.7.0"), DAY, "0" * 64),
        "4.7.1",
        "4.7.10",
        "4.8~devel",
    ]
    assert sorted(life, key=Version) == life
    assert len(set(life)) == len(life)


stages = st.sampled_from([PreRelease.ALPHA, PreRelease.BETA, PreRelease.RC, None])
releases = st.tuples(*[st.integers(0, 40)] * 3)
versions = st.builds(UpstreamVersion, releases, stages, st.integers(0, 30))
snapshots = st.builds(
    Snapshot,
    commit=st.text("0123456789abcdef", min_size=40, max_size=40),
    date=st.integers(0, 4_000_000_000),
    before_tag=st.booleans(),
    dirty=st.none() | st.text("0123456789abcdef", min_size=64, max_size=64),
)


def rank(version: UpstreamVersion) -> tuple[tuple[int, ...], int, int]:
    order = [PreRelease.ALPHA, PreRelease.BETA, PreRelease.RC, None]
    return version.release, order.index(version.stage), (version.number or 0) if version.stage else 0


@given(versions, versions)
def test_debian_sorts_versions_as_upstream_released_them(one: UpstreamVersion, other: UpstreamVersion) -> None:
    debian = Version(str(one)) < Version(str(other))
    assert debian == (rank(one) < rank(other))


@given(versions, versions, snapshots)
def test_a_snapshot_sorts_between_its_version_and_the_next(
    one: UpstreamVersion, other: UpstreamVersion, snapshot: Snapshot
) -> None:
    taken, base = Version(of_commit(one, snapshot)), Version(str(one))
    assert (taken < base) == snapshot.before_tag
    if rank(other) > rank(one):
        assert taken < Version(str(other))
    if rank(other) < rank(one):
        assert taken > Version(str(other))


@given(versions, snapshots)
def test_every_version_is_a_valid_debian_upstream_version(version: UpstreamVersion, snapshot: Snapshot) -> None:
    valid = re.compile(r"[0-9][A-Za-z0-9.+~]*")  # deb-version(7), without the hyphen that would hide a revision
    for text in (str(version), of_commit(version, snapshot), of_local_content(version, snapshot.date, "a" * 64)):
        assert valid.fullmatch(text)
        assert Version(f"{text}-1").upstream_version == text
