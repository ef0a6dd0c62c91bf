"""Of files with other authors, only the cluster's part changes."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.cluster.rendered import KEY, THREE, cluster_of, files

from pgpool_cluster.configuration.rendering.rendered_file import File, FileShare, merged, without_block, without_entries
from pgpool_cluster.configuration.rendering.rendered_paths import FOLDER
from pgpool_cluster.definition.key import Role


@pytest.mark.parametrize("text", [THREE, "", f"mode: native_replication\n{THREE}virtual_ip: 10.0.0.9/24\n"])
def test_applying_a_hundred_times_changes_nothing_after_the_first(text: str) -> None:
    node = cluster_of(text).nodes[0].name
    for file in files(text, node).values():
        once = merged("admin:entry\n# a line of the admin's\n", file)
        again = once
        for _ in range(100):
            again = merged(again, file)
        assert again == once


def test_a_file_does_not_show_its_content() -> None:
    assert KEY.pool_key not in repr(files()["/var/lib/postgresql/.pgpoolkey"])


def block(text: str) -> File:
    return File(PurePosixPath("/x"), text.encode(), "postgres", "postgres", 0o600, FileShare.BLOCK)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\r")))
def test_removing_the_block_restores_the_original_text(existing: str) -> None:
    assert without_block(merged(existing, block("ours\n"))) == existing


@given(st.text(st.characters(codec="utf-8", exclude_characters="\r")))
def test_a_new_block_replaces_the_old_one(existing: str) -> None:
    assert merged(merged(existing, block("old\n")), block("new\n")) == merged(existing, block("new\n"))


def test_users_of_the_administrator_stay_in_pool_passwd() -> None:
    file = files()[f"{FOLDER}/pool_passwd"]
    text = merged("app:AESxyz\npgpool_check:AESold\n", file)
    assert "app:AESxyz\n" in text
    assert "AESold" not in text
    assert without_entries(text, Role) == "app:AESxyz\n"
