"""Read an untrusted git checkout without running any program that it names.

A repository's configuration can make git run programs even while it only reads: core.fsmonitor, filters, an ssh command
for missing objects. So git gets a repository folder of our own. It borrows the checkout's objects, references and
index, and its configuration copies only a few switches with harmless values.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pgpool_deb.ground.errors import MachineError, UsageError

_COPIED_SETTINGS = {
    "core.autocrlf": "true|false|input",
    "core.eol": "lf|crlf|native",
    "core.filemode": "true|false",
    "core.ignorecase": "true|false",
    "core.symlinks": "true|false",
    "extensions.objectformat": "sha1|sha256",
    "extensions.refstorage": "files|reftable",
}
"""The settings that git needs to read the checkout as its owner does, with the accepted values."""
_OF_CHECKOUT = ("HEAD", "index", "sharedindex.*")
_OF_REPOSITORY = ("objects", "refs", "packed-refs", "shallow", "reftable")
_TIMEOUT_SECONDS = 600
_MAX_LINE_BYTES = 4096
"""A `.git` file or a `commondir` is never longer."""


@dataclass(frozen=True, slots=True)
class GitCheckout:
    """A checkout at `root`, which git reads through the repository `folder` of our own."""

    root: Path
    folder: Path

    def git(self, *arguments: str) -> str:
        """Return the output of a git command that only reads.

        Git sees neither the caller's GIT_ variables nor its configuration or language. Raises UsageError if git fails,
        MachineError if it is missing.
        """
        return _git(self.root, {"GIT_DIR": str(self.folder), "GIT_WORK_TREE": str(self.root)}, *arguments)

    def is_modified(self) -> bool:
        """Return whether tracked files have uncommitted changes; submodules are other repositories and do not count."""
        return bool(self.git("status", "--porcelain", "-z", "--untracked-files=no", "--ignore-submodules=all"))

    def tracked(self) -> list[str]:
        """Return the names of the files in the index."""
        return [name for name in self.git("ls-files", "-z").split("\0") if name]

    def head(self) -> tuple[str, int]:
        """Return the checked-out commit and its time, in seconds since 1970."""
        commit, seconds = self.git("log", "-1", "--no-show-signature", "--format=%H %ct").split()
        return commit, int(seconds)

    def tags(self) -> dict[str, str]:
        """Return the commit behind every tag; annotated tags are followed."""
        lines = self.git("for-each-ref", "--format=%(refname:strip=2) %(objectname) %(*objectname)", "refs/tags")
        words = (line.split() for line in lines.splitlines())
        return {name: objects[-1] for name, *objects in words}

    def descends_from_tag_of(self, commit: str) -> bool:
        """Return whether a tag on `commit` is an ancestor of the checked-out commit."""
        return bool(self.git("for-each-ref", "--count=1", "--merged=HEAD", f"--points-at={commit}"))


@contextmanager
def opened(root: Path) -> Iterator[GitCheckout]:
    """Yield the checkout at `root`, whose `.git` exists; raises UsageError if that is not a repository.

    Nothing is written to the checkout. A repository in which git would read a pipe or a device is refused, because the
    read might never end. Raises MachineError if git is missing, OSError if a file of the checkout cannot be read.
    """
    own = _folder_of_checkout(root)
    repository = _repository_of(own)
    with tempfile.TemporaryDirectory(prefix="pgpool-deb-git-") as place:
        folder = Path(place)
        for origin, names in ((own, _OF_CHECKOUT), (repository, _OF_REPOSITORY)):
            for path in (path for name in names for path in origin.glob(name)):
                _refuse_endless(path)
                (folder / path.name).symlink_to(path)
        (folder / "HEAD").unlink(missing_ok=True)
        (folder / "HEAD").write_text(_line(own / "HEAD") + "\n", encoding="utf-8")
        (folder / "config").write_text(_configuration(root, repository / "config"), encoding="utf-8")
        yield GitCheckout(root, folder)


def _folder_of_checkout(root: Path) -> Path:
    """Return the checkout's own repository folder: `.git`, or the folder that the file `.git` of a work tree names."""
    path = root / ".git"
    if path.is_dir():
        return path.resolve()
    line = _line(path)
    folder = (root / line.removeprefix("gitdir:").strip()).resolve()
    if not line.startswith("gitdir:") or not folder.is_dir():
        raise UsageError(f"{path} does not name a git repository", hint="clone the repository again")
    return folder


def _repository_of(own: Path) -> Path:
    """Return the folder with the objects, which a work tree shares with its repository."""
    common = own / "commondir"
    return (own / _line(common)).resolve() if common.is_file() else own


def _refuse_endless(path: Path) -> None:
    """Raise UsageError if `path` or anything below it is neither a regular file nor a folder."""
    below = (Path(folder, name) for folder, _, names in os.walk(path) for name in names)
    for entry in (path, *below):
        if not entry.is_file() and not entry.is_dir():
            raise UsageError(f"{entry} is not a regular file", hint="clone the repository again")


def _line(path: Path) -> str:
    _refuse_endless(path)
    with path.open(encoding="utf-8", errors="surrogateescape") as stream:
        return stream.read(_MAX_LINE_BYTES).partition("\n")[0].strip()


def _configuration(root: Path, path: Path) -> str:
    """Return a configuration with the accepted settings of the one at `path`; git parses that without its includes."""
    listed = ""
    if path.exists():
        _refuse_endless(path)
        listed = _git(root, {}, "config", "--file", str(path), "--no-includes", "--null", "--list")
    lines = ["[core]", "repositoryformatversion = 1", "bare = false"]
    for entry in listed.split("\0"):
        name, _, value = entry.partition("\n")
        if re.fullmatch(_COPIED_SETTINGS.get(name, "(?!)"), value):
            section, _, key = name.partition(".")
            lines += [f"[{section}]", f"{key} = {value}"]
    return "\n".join(lines) + "\n"


def _git(root: Path, variables: dict[str, str], *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_CONFIG_NOSYSTEM": "1"}
    environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_ALLOW_PROTOCOL": "", "GIT_NO_LAZY_FETCH": "1"}
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd="/" if not variables else root,
            env=environment | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=_TIMEOUT_SECONDS,
        )
    except FileNotFoundError as error:
        raise MachineError("git is missing, and --source names a git checkout", hint="apt-get install git") from error
    except subprocess.TimeoutExpired as error:
        raise UsageError(
            f"{root}: git did not end within {_TIMEOUT_SECONDS} seconds",
            hint="remove pipes and devices from the checkout",
        ) from error
    except subprocess.CalledProcessError as error:
        first_line = os.fsdecode(error.stderr).strip().partition("\n")[0]
        reason = first_line or f"git ended with status {error.returncode}"
        raise UsageError(f"{root}: {reason}", hint="check it with git status, or clone it again") from error
    return os.fsdecode(done.stdout)
