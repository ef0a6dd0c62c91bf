"""Named hashes of a cell's inputs, and descriptions of their differences."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgpool_deb.packages import fingerprint

INPUTS = st.dictionaries(st.text(min_size=1, max_size=6), st.text(max_size=6), max_size=6)
HASH = "0123456789abcdef" * 4


@given(INPUTS, INPUTS)
def test_the_key_is_the_same_only_for_the_same_inputs_in_any_order(one: dict[str, str], two: dict[str, str]) -> None:
    assert (fingerprint.key(one) == fingerprint.key(two)) == (one == two)
    assert fingerprint.key(one) == fingerprint.key(dict(reversed(one.items())))
    assert re.fullmatch("[0-9a-f]{64}", fingerprint.key(one))


@given(INPUTS, INPUTS)
def test_there_is_one_line_for_each_name_that_differs(before: dict[str, str], now: dict[str, str]) -> None:
    differing = sorted(name for name in before | now if before.get(name) != now.get(name))
    lines = fingerprint.differences(before, now)
    assert len(lines) == len(differing)
    assert all(line.startswith(f"{name} ") for line, name in zip(lines, differing, strict=True))
    assert (fingerprint.differences(before, now) == []) == (before == now)


@given(INPUTS, INPUTS)
def test_a_new_name_is_a_missing_one_in_the_other_direction(before: dict[str, str], now: dict[str, str]) -> None:
    new = {line.removesuffix(" is new") for line in fingerprint.differences(before, now) if line.endswith(" is new")}
    gone = {line.removesuffix(" is gone") for line in fingerprint.differences(now, before) if line.endswith(" is gone")}
    assert new == gone == now.keys() - before.keys()


def test_differences_show_short_values_but_no_hashes() -> None:
    before = {"package gcc": "14.1", "debian/rules": HASH, "a": "1"}
    now = {"package gcc": "14.2", "debian/rules": HASH[::-1], "b": "1"}
    assert fingerprint.differences(before, now) == [
        "a is gone",
        "b is new",
        "debian/rules changed",
        "package gcc changed from 14.1 to 14.2",
    ]


@given(st.binary(max_size=64), st.binary(max_size=64), st.booleans(), st.booleans())
def test_the_hash_of_a_file_covers_its_bytes_and_executable_bit(
    tmp_path_factory: pytest.TempPathFactory, one: bytes, two: bytes, one_runs: bool, two_runs: bool
) -> None:
    folder = tmp_path_factory.mktemp("files")
    for name, content, runs in (("one", one, one_runs), ("two", two, two_runs)):
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o755 if runs else 0o644)
    same = fingerprint.of_file(folder / "one") == fingerprint.of_file(folder / "two")
    assert same == ((one, one_runs) == (two, two_runs))
