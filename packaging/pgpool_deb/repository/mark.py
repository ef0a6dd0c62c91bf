"""repository.json: what tells a repository of ours from any other folder, and the URL that clients find it by."""

from __future__ import annotations

import json
import re
from pathlib import Path

from pgpool_deb.errors import UsageError

from . import inside
from .inside import Lack

NAME = "repository.json"
_FORMAT = 1
_URL = re.compile(r"[a-z][a-z0-9+.-]*:/[A-Za-z0-9._~:/@%+,=\[\]-]+")
"""What apt reads as one address in a .sources file, and a shell as one word of the lines to paste."""


def text(url: str) -> str:
    """Return what the file holds."""
    return json.dumps({"format": _FORMAT, "url": url}) + "\n"


def url_of(path: Path) -> str:
    """Return the URL that a repository has; raises UsageError where the folder is no repository of ours."""
    data = inside.read(path, NAME)
    if data is Lack.MISSING:
        raise UsageError(f"{path} is no repository of ours", hint="./invoke publish --to DIR makes one")
    if isinstance(data, Lack):
        raise UsageError(f"{path / NAME} {data}", hint='it is a file that holds {"format": 1, "url": …}')
    try:
        mark = json.loads(data)
        known, url = mark["format"] == _FORMAT, str(mark["url"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{path / NAME} is damaged", hint='it holds {"format": 1, "url": …}') from error
    if not known:
        raise UsageError(f"{path} has a format that this version does not know", hint="git pull, then again")
    return url


def address(url: str) -> str:
    """Return a URL as it is remembered; raises UsageError where apt could not read it."""
    if not _URL.fullmatch(url):
        hint = "it takes what apt takes, as https://packages.example.org/pgpool; a space is written %20"
        raise UsageError(f"--url {url!r} is no address", hint=hint)
    return url.rstrip("/")


def address_of(path: Path) -> str:
    """Return the URL by which apt reads a folder; raises UsageError where it cannot, as it decodes such a URL twice."""
    if "%" in str(path) or not str(path).isprintable():
        raise UsageError(f"apt cannot read the folder {path}", hint="choose a name without %, or say --url")
    return path.as_uri()
