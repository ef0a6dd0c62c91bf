"""The prose of documents, docstrings, comments and messages keeps to the rules of CONTRIBUTING.md."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.unit import prose

HERE = Path(__file__).parents[2]
UNCLEAN = ("tests/unit/prose.py", "tests/unit/test_prose.py")
"""Files that quote what they rule out."""
NO_PROSE = ("LICENSE", "packaging/contents/", "requirements.lock", "debian-templates/pgpool2/copyright")
NOT_ENGLISH = (".po", ".pot", ".png")
RULED_OUT = (
    "Who joins the watchdog has the whole deadtime for its first heartbeat",
    "pgpool-II has given a node up: what its failover_command comes to, on the node of the pgpool-II that leads.",
    "once each: who waits for one would wait for ever.",
    "a node that has come into service since the look",
    "Whoever is taken for lost for another reason, a second stage does not go past",
    "What of it has got no name is left out.",
    "What the cluster is stands in /etc/pgpool2/cluster.yml",
    "Here a client is told of the end.",
    "Then nobody is promoted.",
    "the test of a power loss did not know that dpkg wants a package installed anew",
    "an attachment that came to nothing",
    "A restart of the primary is no failure.",
)
RIGHT = (
    "Who is the primary? The node that led in the latest term.",
    "A client, who is a person here, wants to log in. The user wants TLS.",
    "It looks like a lock, takes a lock for 30 s, and accounts for it.",
    "What does it check? State what it does.",
    "See nobody:nogroup, and the section on the node that leads.",
)


def findings(name: str) -> list[str]:
    try:
        text = (HERE / name).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return []
    return [f"{name}:{one.line}: {one.words!r}: {one.advice}" for one in prose.findings(name, text)]


def files() -> list[str]:
    """Names of all files that are, or are about to be, in version control, without those that hold no English."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=True).stdout.split("\0")
    return [
        name
        for name in names
        if name and (HERE / name).is_file() and not name.startswith(NO_PROSE) and not name.endswith(NOT_ENGLISH)
    ]


def test_no_prose_has_a_pattern_that_contributing_rules_out() -> None:
    found = [line for name in files() if not name.startswith(UNCLEAN) for line in findings(name)]
    assert found == [], "CONTRIBUTING.md, Prose: ten rules:\n" + "\n".join(found)


@pytest.mark.parametrize("place", UNCLEAN)
def test_a_place_that_is_clean_leaves_the_list(place: str) -> None:
    dirty = any(findings(name) for name in files() if name.startswith(place))
    assert dirty, f"{place} has no finding any more: remove it from UNCLEAN"


@pytest.mark.parametrize("text", RULED_OUT)
def test_a_bad_sentence_is_found_in_every_kind_of_file(text: str) -> None:
    assert prose.findings("a.md", f"# Title\n\nGood.\n\n{text}\n")[0].line == 5
    assert prose.findings("a.py", f'"""Good."""\n\n\ndef f() -> None:\n    """{text}"""\n')[0].line == 5
    assert prose.findings("a.py", f"x = 1\n# {text}\n")[0].line == 2
    assert prose.findings("a.py", f'print("{text}")\n')
    assert prose.findings("a.patch", f"Description: Mend it\n {text}\n---\n--- a/f\n+++ b/f\n")
    assert prose.findings("pgpool.conf.j2", f"port = 9999\n# {text}\n")[0].line == 2
    assert prose.findings("README.Debian", f"{text}\n")
    assert prose.findings("a.templates", f"Template: a/b\nType: string\n_Description: Nodes:\n {text}\n")


@pytest.mark.parametrize("text", RIGHT)
def test_a_good_sentence_passes(text: str) -> None:
    assert prose.findings("a.md", f"{text}\n") == []
    assert prose.findings("a.py", f'"""{text}"""\n') == []


def test_a_pattern_may_go_over_the_end_of_a_line() -> None:
    assert prose.findings("a.md", "A node that is\ntaken\nfor lost.\n")[0].line == 2


def test_code_headings_and_quotations_are_not_prose() -> None:
    assert prose.findings("a.md", "## Who acts\n\n    nobody\n\n```\nnobody\n```\n\n`nobody`\n") == []
    assert prose.findings("a.md", "<!-- prose: quoted -->\n\nnobody\n\n<!-- prose: end -->\n\nGood.\n") == []
    assert prose.findings("a.patch", "Description: Mend it\n---\n--- a/f\n+++ b/f\n+nobody\n") == []
    assert prose.findings("a.py", "nobody = 1\n") == []
