"""Write docs/reference/patches.md, the list of our patches to pgpool-II, from their headers and series.in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from .debianize import SERIES, ranges_of
from .patches import NOT_SENT, Patch

PLACE = Path("docs", "reference", "patches.md")
COMMAND = "./invoke patches"
_PATCHES = "../../debian-templates/pgpool2/patches"
_RELATIONS = {"<<": "before", "<=": "up to", "=": "only", ">=": "from", ">>": "after"}
_FORWARDED = {NOT_SENT: "no", "not-needed": "not needed"}
_TEMPLATE = Path(__file__).with_name("patches.md.j2")


@dataclass(frozen=True, slots=True)
class PatchRow:
    """A patch, and the limits of each of its version ranges (debianize.ranges_of)."""

    patch: Patch
    ranges: Sequence[Sequence[tuple[str, str]]]


def rows(templates: Path) -> tuple[PatchRow, ...]:
    """Read the patches that series.in names, in order; raises ValueError if it or a patch is malformed."""
    ranges = ranges_of((templates / SERIES).read_text(encoding="utf-8"))
    return tuple(PatchRow(Patch.read(templates / "patches" / name), limits) for name, limits in ranges.items())


def render(listed: Sequence[PatchRow]) -> str:
    """Return docs/reference/patches.md. The same patches give the same text."""
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True, autoescape=False)  # noqa: S701
    sizes = [row.patch.size for row in listed]
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        command=COMMAND,
        rows=[[cell.replace("|", "\\|") for cell in _cells(row)] for row in listed],
        added=sum(added for added, _ in sizes),
        removed=sum(removed for _, removed in sizes),
    )


def _cells(row: PatchRow) -> tuple[str, ...]:
    patch = row.patch
    added, removed = patch.size
    return (
        f"[{patch.name}]({_PATCHES}/{patch.name}.patch)",
        "; ".join(_range(limits) for limits in row.ranges),
        patch.without,
        f"+{added} −{removed}",
        "yes" if patch.relied_on else "no",
        _forwarded(patch),
        ", ".join(_test(name) for name in patch.tests) or patch.tested_by,
    )


def _range(limits: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{_RELATIONS[relation]} {version.rstrip('~')}" for relation, version in limits) or "all"


def _forwarded(patch: Patch) -> str:
    """Return whether upstream has got the patch; one that comes from upstream need not be sent."""
    from_upstream = re.fullmatch(r"upstream, (https?://\S+)", patch.origin)
    if from_upstream:
        return f"[upstream's]({from_upstream[1]})"
    return _FORWARDED.get(patch.forwarded, f"[yes]({patch.forwarded})")


def _test(name: str) -> str:
    path, _, function = name.partition("::")
    return f"[{function}](../../{path})"
