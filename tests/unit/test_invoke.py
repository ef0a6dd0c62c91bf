"""./invoke works in checkouts with odd paths, in moved ones and in copied ones."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pgpool_deb.ground.errors import ExitStatus

HERE = Path(__file__).parents[2]
PROGRAM = """
import sys
def main(project):
    print(project, sys.prefix, *sys.argv[1:], sep="\\n")
"""


def checkout(path: Path) -> Path:
    """Make a checkout whose program prints its path, with a fresh environment."""
    (path / "packaging" / "pgpool_deb").mkdir(parents=True)
    for name in ("invoke", "packaging/start.py"):
        shutil.copy2(HERE / name, path / name)
    (path / "packaging" / "pgpool_deb" / "program.py").write_text(PROGRAM)
    (path / "requirements.lock").write_text("")
    make_environment(path / ".venv")
    return path


def make_environment(venv: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    (venv / ".made-from.lock").write_text("")
    (packages,) = venv.glob("lib/python*/site-packages")
    (packages / "invoke.py").touch()


def said(command: str, *arguments: str | Path, **environment: str) -> list[str]:
    """Return the lines that a shell script prints; it must succeed."""
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


def test_a_copied_checkout_runs_its_own_program(tmp_path: Path) -> None:
    first = checkout(tmp_path / "first")
    assert said('"$1/invoke"', first)[0] == str(first)
    copy = tmp_path / "a copy"
    shutil.copytree(first, copy, symlinks=True)
    assert said('"$1/invoke"', copy)[0] == str(copy)
    assert said('. "$1/.venv/bin/activate"; invoke', copy)[:2] == [str(copy), str(copy / ".venv")]
    assert said('. "$1/.venv/bin/activate"; invoke', first)[:2] == [str(first), str(first / ".venv")]


def test_an_earlier_checkout_runs_the_environments_own_command(tmp_path: Path) -> None:
    """An earlier ./invoke ends with `exec .venv/bin/invoke`, and its checkout has no start.py."""
    place = checkout(tmp_path / "a place")
    said('"$1/invoke"', place)
    (place / "packaging" / "start.py").unlink()
    (place / "invoke").write_text('#!/bin/sh\nexec "$(dirname "$0")/.venv/bin/invoke" "$@"\n')
    assert said('timeout 20 "$1/invoke" build "a  b"', place)[0] == str(place)
    assert said('cd "$1/packaging"; timeout 20 ../.venv/bin/invoke build "a  b"', place)[2:] == ["build", "a  b"]


def test_a_link_to_the_checkouts_command_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    place = checkout(tmp_path / "place")
    (place / ".venv" / "bin" / "invoke").symlink_to("../../invoke")
    (place / ".venv" / ".settled-at").write_text(f"{place / '.venv'}\n")
    said('"$1/invoke"', place)
    assert (place / "invoke").read_bytes() == (HERE / "invoke").read_bytes()
    assert not (place / ".venv" / "bin" / "invoke").is_symlink()


def test_an_environment_may_lie_elsewhere(tmp_path: Path) -> None:
    place, venv = checkout(tmp_path / "place"), tmp_path / "elsewhere" / "venv"
    shutil.rmtree(place / ".venv")
    make_environment(venv)
    (place / ".venv").symlink_to(venv)
    assert said('"$1/invoke"', place)[0] == str(place)
    assert said('. "$1/bin/activate"; invoke', venv)[0] == str(place)
    again = tmp_path / "again"
    place.rename(again)
    assert said('"$1/invoke"', again)[0] == str(again)
    assert said('. "$1/bin/activate"; invoke', venv)[0] == str(again)


def test_invoke_works_with_pythonsafepath(tmp_path: Path) -> None:
    place = checkout(tmp_path / "place")
    assert said('"$1/invoke"', place, PYTHONSAFEPATH="1")[0] == str(place)


def test_an_environment_of_another_python_is_replaced(tmp_path: Path) -> None:
    place = checkout(tmp_path / "place")
    (lib,) = (place / ".venv" / "lib").glob("python*")
    lib.rename(lib.with_name("python3.1"))
    words = [str(place / "invoke")]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True) as making:
        assert making.stderr is not None
        said = making.stderr.readline().decode()
        os.killpg(making.pid, signal.SIGKILL)  # the whole environment takes seconds
    assert said.startswith("Creating the Python environment .venv"), said


def test_a_read_only_checkout_without_environment_is_reported(tmp_path: Path) -> None:
    place = checkout(tmp_path / "place")
    shutil.rmtree(place / ".venv")
    (place / ".venv.lock").mkdir()  # a read-only mode would not stop root
    answer = subprocess.run([place / "invoke"], capture_output=True, text=True, check=False)
    assert answer.returncode == ExitStatus.ENVIRONMENT
    message, hint = answer.stderr.splitlines()
    assert message.endswith(f"this user cannot write to the checkout: {place}")
    assert hint.startswith("hint: copy the checkout")


def test_a_path_with_a_colon_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "a:b"
    checkout(tmp_path / "first").rename(place)
    shutil.rmtree(place / ".venv")
    answer = subprocess.run([place / "invoke"], capture_output=True, text=True, check=False)
    assert answer.returncode == ExitStatus.ENVIRONMENT
    assert answer.stderr.splitlines() == [
        f"Python cannot create an environment in a path with a colon: {place}",
        "hint: move the checkout to a path without a colon",
    ]
