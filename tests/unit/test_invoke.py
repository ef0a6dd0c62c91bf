"""./invoke itself: checkouts below odd paths, moved ones and copied ones."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pgpool_deb.errors import ExitStatus

HERE = Path(__file__).parents[2]
PROGRAM = """
import sys
def main(project):
    print(project, sys.prefix, *sys.argv[1:], sep="\\n")
"""


def checkout(path: Path) -> Path:
    """A checkout whose program tells where it is, with an environment as it was just made there."""
    (path / "packaging" / "pgpool_deb").mkdir(parents=True)
    for name in ("invoke", "packaging/start.py"):
        shutil.copy2(HERE / name, path / name)
    (path / "packaging" / "pgpool_deb" / "program.py").write_text(PROGRAM)
    (path / "requirements.lock").write_text("")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(path / ".venv")], check=True)
    (path / ".venv" / ".made-from.lock").write_text("")
    return path


def said(command: str, *arguments: str | Path, **environment: str) -> list[str]:
    """Lines that a shell script prints, which must succeed."""
    words = ["sh", "-euc", command, "sh", *map(str, arguments)]
    answer = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.splitlines()


ODD = {
    "blanks": "my job  1",
    "comma": "a,b",
    "colon": "a:b",
    "non-ASCII": "Müller/größe",
    "shell": "a'b\"c$d\\e;f&(g)",
    "long": "/".join(["a" * 120] * 3),
}


@pytest.mark.parametrize("name", ODD.values(), ids=ODD.keys())
def test_a_checkout_may_be_moved_below_any_path(tmp_path: Path, name: str) -> None:
    first = checkout(tmp_path / "first")
    place = tmp_path / name / "pgpool"
    place.parent.mkdir(parents=True)
    first.rename(place)
    assert said('"$1/invoke" build "a  b"', place) == [str(place), str(place / ".venv"), "build", "a  b"]


def test_a_copy_is_not_the_first_checkout(tmp_path: Path) -> None:
    first = checkout(tmp_path / "first")
    assert said('"$1/invoke"', first)[0] == str(first)
    copy = tmp_path / "a copy"
    shutil.copytree(first, copy, symlinks=True)
    assert said('"$1/invoke"', copy)[0] == str(copy)
    assert said('. "$1/.venv/bin/activate"; invoke', copy)[:2] == [str(copy), str(copy / ".venv")]
    assert said('. "$1/.venv/bin/activate"; invoke', first)[:2] == [str(first), str(first / ".venv")]


def test_no_environment_is_made_below_a_colon_and_a_line_says_so(tmp_path: Path) -> None:
    place = tmp_path / "a:b"
    checkout(tmp_path / "first").rename(place)
    shutil.rmtree(place / ".venv")
    answer = subprocess.run([place / "invoke"], capture_output=True, text=True, check=False)
    assert answer.returncode == ExitStatus.ENVIRONMENT
    assert answer.stderr.splitlines() == [
        f"the path of this checkout has a colon, and Python makes no environment there: {place}",
        "hint: move it to a folder without one",
    ]
