"""Find the worst patterns of prose that CONTRIBUTING.md rejects, in documents, docstrings, comments and messages."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_START = r"(?:\A|(?<=[.;:]\s)|(?<=\n\n))"
"""Where a sentence, or a clause after a semicolon or colon, begins."""
_PERSON = r"(?:users?|you|admins?|administrators?|developers?|clients?|intruders?|attackers?|readers?)"
_WRONGLY = r"(?:done|lost|answered|granted|dead|good|an?|one|the)"
_OBJECT = r"(?:it|this|that|them|which|something)"
_COUNTED = r"(?:[Aa]|[Tt]he|[Ee]ach|[Ee]very|[Oo]ne|[Ss]econd|[Ff]irst|[Ll]ast|[Nn]ext|[Tt]wo)"


@dataclass(frozen=True, slots=True)
class Rule:
    """A pattern that must not occur, and the wording to use instead. A space matches any white space."""

    pattern: re.Pattern[str]
    advice: str


def _rule(pattern: str, advice: str) -> Rule:
    return Rule(re.compile(pattern.replace(" ", r"\s+")), advice)


RULES = (
    _rule(rf"{_START}(?:Who|who)(?:ever)?\b(?![^.?]*\?)", "name the node, process or user that acts"),
    _rule(rf"{_START}What\b(?![^.?]*\?)", "name the thing"),
    _rule(r"\b(?:of|for|to|from|by|than|with|and|or) who\b(?! (?:may|can|is|are)\b[^.]*\?)", "name the node or user"),
    _rule(
        r"\b(?i:whoever|(?<!-u\x20)(?<!reuid\x20)(?<!all\x20)(?<!\x00)nobody(?![:'\"\\])|somebody|anybody)\b",
        "name the node, process or user",  # but nobody is a user of Debian's
    ),
    _rule(rf"\b{_COUNTED} looks?\b(?! like)", "collect facts, check: a look is not a thing"),
    _rule(rf"\b(?:takes?|took|taking) (?:{_OBJECT} )?for {_WRONGLY} ", "treat as, mistake for"),
    _rule(r"\btaken for\b", "treated as, mistaken for"),
    _rule(r"\b[Ww]hat\b[^.;:?]{0,60} (?:comes?|came) to\b", "state what it does"),
    _rule(r"\b(?:comes?|came|coming) to (?:nothing|that|this)\b", "fails, results in"),
    _rule(r"\b[Ww]hat of (?:it|them|its|his|this|that|which)\b", "name the part"),
    _rule(rf"(?<!\w)(?!{_PERSON} )[\w.-]+ wants\b", "needs, requires"),
    _rule(r"\b(?:is|are|was|were|be|been|being) told\b", "receives, is reported, is instructed"),
    _rule(r"\b(?:tells|told|tell) of\b", "reports"),
    _rule(r"\b(?:comes?|came|is|are|be|puts?) in (?:the|its|their) way\b", "blocks, prevents"),
    _rule(r"\b(?:is|are) no (?:failure|error|member|choice|backup|way)\b", "is not a …"),
    _rule(r"\bfor want of\b", "because … is missing"),
)


@dataclass(frozen=True, slots=True)
class Passage:
    """A stretch of prose. `line` is the number of its first line in the file."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A match of a rule."""

    line: int
    words: str
    advice: str


def findings(name: str, text: str) -> list[Finding]:
    """Return all matches in a file, in the order of its lines. Files without prose have none."""
    found = [one for passage in passages(name, text) for one in _matches(passage)]
    return sorted(found, key=lambda one: one.line)


def _matches(passage: Passage) -> Iterator[Finding]:
    for rule in RULES:
        for match in rule.pattern.finditer(passage.text):
            line = passage.line + passage.text.count("\n", 0, match.start())
            yield Finding(line, " ".join(match[0].split()), rule.advice)


def passages(name: str, text: str) -> Iterator[Passage]:
    """Return the prose of a file; its name decides which lines are prose."""
    path = Path(name)
    suffix = Path(path.stem).suffix if path.suffix == ".j2" else path.suffix
    if suffix == ".md":
        yield _markdown(text)
    elif suffix == ".py" or text.startswith("#!/usr/bin/python3"):
        yield from _python(text)
    elif suffix == ".patch":
        yield _folded(text.partition("\n---")[0])
    elif suffix in (".templates", ".Debian"):
        yield _folded(text)
    else:
        yield from _comments(enumerate(text.split("\n"), 1))


def _folded(text: str) -> Passage:
    """Return the folded fields of a header; a title is a sentence, and a line with a dot ends a paragraph."""
    text = re.sub(r"^(Description: .*)$", r"\1.", text, flags=re.MULTILINE)
    return Passage(1, re.sub(r"^ (?:\.$)?", "", text, flags=re.MULTILINE))


def _markdown(text: str) -> Passage:
    """Return a document without code, headings and quoted examples; a cell of a table is a sentence of its own."""
    lines, fenced, quoted = [], False, False
    for line in text.split("\n"):
        fenced ^= line.startswith("```")
        quoted = (quoted or line == "<!-- prose: quoted -->") and line != "<!-- prose: end -->"
        skipped = fenced or quoted or line.startswith(("    ", "#", "```", "<!--"))
        lines.append("" if skipped else line)
    prose = re.sub(r"`[^`\n]*`", "`…`", "\n".join(lines))
    prose = re.sub(r"\]\([^)\n]*\)", "]", prose)
    return Passage(1, re.sub(r"^[-*] |^\d+\. |\*\*|[|\[\]]", ". ", prose, flags=re.MULTILINE))


def _python(text: str) -> Iterator[Passage]:
    """Return docstrings, messages and comments. A message is a string of at least three words."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.JoinedStr):
            yield Passage(node.lineno, "".join(_part(value) for value in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value.split()) > 2:
            yield Passage(node.lineno, node.value)
    if "#" not in text:
        return
    comments = {
        token.start[0]: token.string
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    }
    yield from _comments(comments.items())


def _part(value: ast.expr) -> str:
    return str(value.value) if isinstance(value, ast.Constant) else "…"


def _comment(line: str) -> str | None:
    match = re.match(r"\s*(?:#|;|\{#-?)(?!!)\s?(.*)", line)
    return match[1] if match else None


def _comments(lines: Iterable[tuple[int, str]]) -> Iterator[Passage]:
    """Return comments; those on consecutive lines are one passage."""
    first, gathered = 0, list[str]()
    for number, line in lines:
        words = _comment(line)
        if gathered and (words is None or number != first + len(gathered)):
            yield Passage(first, "\n".join(gathered))
            gathered = []
        if words is not None:
            first = number if not gathered else first
            gathered.append(words)
    if gathered:
        yield Passage(first, "\n".join(gathered))
