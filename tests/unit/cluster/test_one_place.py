"""Ports and fixed paths of a server are written in one module each, and one module starts programs."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgpool_cluster.ground import paths, ports

PACKAGE = Path(paths.__file__).parents[1]
PORTS = frozenset(value for name, value in vars(ports).items() if name.isupper())
PORT_IN_TEXT = re.compile(r"\b(22|5432|9000|9694|9695|9898|9999)(?:/tcp|/udp|$)")
FIXED = re.compile(
    r"^/(?:etc/(?:pgpool2|postgresql|ssh/sshd?_|shadow)|(?:run|var)/(?:lib/|run/)?p|usr/s?bin|usr/lib/p)"
)
"""The beginning of a path that paths.py has, or should have."""
NAMES_PLACES = frozenset({"paths", "rendered_paths"})
"""`rendered_paths` has the places of files in the folders of other packages."""
NO_PORTS = frozenset({"certificates"})
"""`certificates` has the year 9999."""
STARTS_PROGRAMS = frozenset({"archive_command", "peers", "programs"})
"""`archive_command` imports as little as possible; `peers` talks to ssh."""


def constants(module: Path) -> Iterator[ast.Constant]:
    """Yield the constants in a module's code, without its docstrings."""
    tree = ast.parse(module.read_text())
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docs)


def modules(without: frozenset[str]) -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path.stem not in without]


def test_fixed_paths_are_in_one_module() -> None:
    found = [
        (module.stem, one.value)
        for module in modules(NAMES_PLACES)
        for one in constants(module)
        if isinstance(one.value, str) and FIXED.match(one.value)
    ]
    assert found == []


def test_ports_are_in_one_module() -> None:
    found = [
        (module.stem, one.value)
        for module in modules(NO_PORTS | {"ports"})
        for one in constants(module)
        if (type(one.value) is int and one.value in PORTS)
        or (isinstance(one.value, str) and PORT_IN_TEXT.search(one.value))
    ]
    assert found == []


@pytest.mark.parametrize("template", sorted(paths.templates().glob("*.j2")), ids=lambda path: path.name)
def test_no_template_has_the_number_of_a_port(template: Path) -> None:
    assert re.findall(r"\b(?:5432|9000|9694|9695|9898|9999)\b", template.read_text()) == []


def test_programs_are_started_in_one_module() -> None:
    starts = re.compile(r"^\s*(?:import|from) subprocess\b", re.MULTILINE)
    assert [module.stem for module in modules(STARTS_PROGRAMS) if starts.search(module.read_text())] == []
