"""Parse YAML into a tree that keeps line numbers.

Scalars stay as written: the code that reads a key interprets `on`, `0x10` or `1:30`, not YAML 1.1. Only plain YAML is
accepted: no tags, anchors, further documents or duplicate keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import yaml  # type: ignore[import-untyped,unused-ignore] # python3-yaml has no types of its own

from ..ground.errors import UsageError

LONGEST_TEXT = 1 << 20
"""Limit in characters; a cluster.yml with 128 nodes has less than a hundredth of that."""
DEEPEST_NESTING = 10
"""Limit of nested brackets and indentations; cluster.yml needs four."""


@dataclass(frozen=True, slots=True)
class Place:
    """A position in a file; `str()` is the FILE:LINE that starts an error message."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"

    def error(self, reason: str, *, hint: str) -> UsageError:
        """Return an error at this position."""
        return UsageError(f"{self}: {reason}", hint=hint)


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value as written, without its quotes; `quoted` says whether it had any."""

    place: Place
    text: str
    quoted: bool

    @property
    def empty(self) -> bool:
        """Whether the value is empty, which YAML calls null."""
        return not self.quoted and self.text in ("", "~", "null")


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list."""

    place: Place
    items: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """A key of a mapping and its value."""

    place: Place
    key: str
    value: Value


@dataclass(frozen=True, slots=True)
class Mapping:
    """Keys and values, in the order of the file."""

    place: Place
    entries: tuple[Entry, ...]


Value = Scalar | Sequence | Mapping


def parse(text: str, file: str) -> Mapping:
    """Return the mapping that `text` contains; raises UsageError with file and line for everything else."""
    _refuse_tabs_and_excess(text, file)
    try:
        _refuse_what_is_not_plain(text, file)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise _syntax_error(error, file) from error
    if root is None:
        return Mapping(Place(file, 1), ())
    tree = _value(root, file)
    if not isinstance(tree, Mapping):
        raise tree.place.error("no keys here", hint="the file consists of lines such as `name: main`")
    return tree


def _refuse_tabs_and_excess(text: str, file: str) -> None:
    if len(text) > LONGEST_TEXT:
        raise Place(file, 1).error("the file is larger than 1 MB", hint="is it the right file?")
    for number, line in enumerate(text.split("\n"), start=1):
        if "\t" in line.split("#", 1)[0]:
            raise Place(file, number).error("a tab", hint="YAML indents with spaces: replace the tab with spaces")


def _refuse_what_is_not_plain(text: str, file: str) -> None:
    depth = 0
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        place = Place(file, int(token.start_mark.line) + 1)
        if isinstance(token, yaml.AnchorToken | yaml.AliasToken | yaml.TagToken):
            raise place.error("anchors (&), aliases (*) and tags (!) are not supported", hint="quote the value")
        depth += isinstance(token, yaml.FlowSequenceStartToken | yaml.FlowMappingStartToken)
        depth -= isinstance(token, yaml.FlowSequenceEndToken | yaml.FlowMappingEndToken)
        depth += isinstance(token, yaml.BlockSequenceStartToken | yaml.BlockMappingStartToken)
        depth -= isinstance(token, yaml.BlockEndToken)
        if depth > DEEPEST_NESTING:
            raise place.error("nested too deeply", hint="look for an unclosed bracket")


def _syntax_error(error: yaml.YAMLError, file: str) -> UsageError:
    mark = getattr(error, "problem_mark", None)
    line = int(mark.line) + 1 if mark is not None else 1
    problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or "not readable as YAML")
    return Place(file, line).error(f"not YAML: {problem}", hint="keys and values look like `name: main`")


def _value(node: yaml.Node, file: str) -> Value:
    place = Place(file, int(node.start_mark.line) + 1)
    if isinstance(node, yaml.ScalarNode):
        return Scalar(place, str(node.value), quoted=node.style is not None)
    if isinstance(node, yaml.SequenceNode):
        return Sequence(place, tuple(_value(item, file) for item in node.value))
    return Mapping(place, tuple(_entries(node, file, place)))


def _entries(node: yaml.Node, file: str, place: Place) -> list[Entry]:
    seen: dict[str, Entry] = {}
    for key_node, value_node in node.value:
        key = _value(key_node, file)
        if not isinstance(key, Scalar):
            raise place.error("a key that is not a word", hint="a key is one word before a colon")
        if key.text in seen:
            first = seen[key.text].place.line
            raise key.place.error(f"{key.text} appears twice, first in line {first}", hint="keep one of the two")
        seen[key.text] = Entry(key.place, key.text, _value(value_node, file))
    return list(seen.values())
