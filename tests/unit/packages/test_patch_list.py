"""docs/reference/patches.md matches the headers of the patches and series.in."""

from __future__ import annotations

from pathlib import Path

from pgpool_deb.ground.project import Project
from pgpool_deb.packages import patch_list, pgpool2
from pgpool_deb.packages.patch_list import PatchRow
from pgpool_deb.packages.patches import Patch

HERE = Project(Path(__file__).parents[3])
TEXT = "Description: Mend it\n---\n--- a/f\n+++ b/f\n@@ -1 +1,2 @@\n-one\n+two\n+three\n"
TEST = "tests/cluster/test_x.py::test_y"


def line(patch: Patch, *ranges: list[tuple[str, str]]) -> list[str]:
    """Return the cells of a patch in the table."""
    (result,) = [row for row in patch_list.render([PatchRow(patch, ranges)]).splitlines() if row.startswith("| [mend]")]
    return [cell.strip() for cell in result.strip("|").split(" | ")]


def test_the_committed_page_is_up_to_date() -> None:
    kept = (HERE.path / patch_list.PLACE).read_text(encoding="utf-8")
    written = patch_list.render(patch_list.rows(HERE.templates(pgpool2.NAME)))
    assert kept == written, f"{patch_list.PLACE} does not match the patches: run {patch_list.COMMAND}"


def test_a_patch_is_listed_with_its_reason_size_and_tests() -> None:
    patch = Patch("mend", TEXT, "it is broken", relied_on=True, tested_by=TEST)
    assert line(patch, []) == [
        "[mend](../../debian-templates/pgpool2/patches/mend.patch)",
        "all",
        "it is broken",
        "+2 −1",
        "yes",
        "no",
        "[test_y](../../tests/cluster/test_x.py)",
    ]
    assert "1 patches, +2 −1 lines." in patch_list.render([PatchRow(patch, [[]])])


def test_every_range_of_versions_is_named() -> None:
    patch = Patch("mend", TEXT, "w", relied_on=False)
    cells = line(patch, [("<<", "4.3.17")], [(">=", "4.4~"), ("<<", "4.4.14")])
    assert cells[1] == "before 4.3.17; from 4.4, before 4.4.14"


def test_patches_from_upstream_and_reported_ones_are_marked() -> None:
    theirs = Patch("mend", TEXT, "w", relied_on=False, forwarded="not-needed", origin="upstream, https://x/commit/1")
    sent = Patch("mend", TEXT, "w", relied_on=False, forwarded="https://x/issues/2")
    ours = Patch("mend", TEXT, "w", relied_on=False, forwarded="not-needed")
    assert line(theirs, [])[5] == "[upstream's](https://x/commit/1)"
    assert line(sent, [])[5] == "[yes](https://x/issues/2)"
    assert line(ours, [])[5] == "not needed"


def test_a_patch_without_a_test_states_the_reason() -> None:
    patch = Patch("mend", TEXT, "w", relied_on=False, tested_by="none: it cannot be tried")
    assert line(patch, [])[6] == "none: it cannot be tried"
