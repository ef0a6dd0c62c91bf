"""A name means one thing in a package: no two modules share a name, and no two classes do."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parents[2]


def modules(package: Path) -> list[Path]:
    return [path for path in sorted(package.rglob("*.py")) if path.name != "__init__.py"]


def types(module: Path) -> Iterator[str]:
    """Yield the names of a module's classes and type aliases, without the underscore of private ones."""
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        names = [node.name] if isinstance(node, ast.ClassDef) else []
        if isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        bare = (name.lstrip("_") for name in names)
        yield from (name for name in bare if name[:1].isupper() and not name.isupper())


def shared(package: Path) -> dict[str, list[str]]:
    """Return the names that more than one module, folder, class or type alias has, with their places."""
    places: dict[str, list[str]] = defaultdict(list)
    for folder in {path.parent for path in modules(package)} - {package}:
        places[folder.name].append(str(folder.relative_to(package)))
    for path in modules(package):
        place = str(path.relative_to(package))
        stems = [path.stem] if path.stem != path.parent.name else []  # the main module of its folder
        for name in (*stems, *types(path)):
            places[name].append(place)
    return {name: found for name, found in places.items() if len(found) > 1}


@pytest.mark.parametrize("package", ["packaging/pgpool_deb", "scripts/pgpool_cluster"])
def test_names_are_unique_in_a_package(package: str) -> None:
    assert shared(HERE / package) == {}


MODULE = re.compile(r"(?<![\w.*-])((?:(?:scripts|packaging|tests)/)(?:[\w-]+/)*[a-z_]\w*\.py)\b")
ABSENT = ("packaging/__init__.py",)
"""architecture.md says why there is no such file."""


@pytest.mark.parametrize(
    "document", [*sorted((HERE / "docs").rglob("*.md")), *sorted(HERE.glob("*.md"))], ids=lambda path: path.name
)
def test_modules_that_a_document_names_are_there(document: Path) -> None:
    named = set(MODULE.findall(document.read_text(encoding="utf-8"))) - {*ABSENT}
    assert [name for name in sorted(named) if not (HERE / name).is_file()] == []


@pytest.mark.parametrize(
    ("other", "text", "name"),
    [
        ("upper/one.py", "", "one"),
        ("upper/lower.py", "", "lower"),
        ("upper/two.py", "class _Row: ...", "Row"),
        ("upper/two.py", "Row = tuple[int, ...]", "Row"),
    ],
    ids=("module", "folder", "class", "alias"),
)
def test_a_shared_name_is_found(tmp_path: Path, other: str, text: str, name: str) -> None:
    for folder in ("lower", "upper"):
        (tmp_path / folder).mkdir()
    (tmp_path / "lower" / "one.py").write_text("Row = dict[str, str]\n_LIMIT = 3\n\nclass Part: ...\n")
    (tmp_path / "upper" / "third.py").write_text("_LIMIT = 4\n")
    assert shared(tmp_path) == {}
    (tmp_path / other).write_text(text)
    assert shared(tmp_path).keys() == {name}
