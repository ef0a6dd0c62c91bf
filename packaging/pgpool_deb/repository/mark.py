"""repository.json: marks a folder as one of our repositories and holds the URL at which clients reach it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from pgpool_deb.ground.errors import UsageError

from . import inside
from .inside import Lack

NAME = "repository.json"
_FORMAT = 1
_URL = re.compile(r"[a-z][a-z0-9+.-]*:/[A-Za-z0-9._~:/@%+,=\[\]-]+")
"""URLs that apt reads as one address in a .sources file, and a shell as one word of the commands to paste."""


def text(url: str) -> str:
    """Return the contents of the file."""
    return json.dumps({"format": _FORMAT, "url": url}) + "\n"


def url_of(path: Path) -> str:
    """Return the URL of a repository; raises UsageError if the folder is not one of our repositories."""
    data = inside.read(path, NAME)
    if data is Lack.MISSING:
        raise UsageError(f"{path} is not a repository of this project", hint="./invoke publish --to DIR creates one")
    if isinstance(data, Lack):
        raise UsageError(
            f"{path / NAME} {data}", hint='replace it with a file that contains {"format": 1, "url": "URL"}'
        )
    try:
        mark = json.loads(data)
        known, url = mark["format"] == _FORMAT, str(mark["url"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(
            f"{path / NAME} is damaged", hint='replace it with a file that contains {"format": 1, "url": "URL"}'
        ) from error
    if not known:
        raise UsageError(
            f"{path} has a format that this version does not support", hint="git pull, then run the same command again"
        )
    return url


def address(url: str) -> str:
    """Return a URL in the form in which it is stored; raises UsageError if apt could not read it."""
    if not _URL.fullmatch(url):
        hint = "use a URL such as https://packages.example.org/pgpool; write a space as %20"
        raise UsageError(f"--url {url!r} is not a URL that apt accepts", hint=hint)
    return url.rstrip("/")


def address_of(path: Path) -> str:
    """Return the file: URL of a folder; raises UsageError for names that apt cannot read.

    apt decodes such a URL twice, so the name must not contain "%". Unprintable characters are refused, too.
    """
    if "%" in str(path) or not str(path).isprintable():
        raise UsageError(f"apt cannot read the folder {path}", hint="choose a folder name without %, or set --url")
    return path.as_uri()
