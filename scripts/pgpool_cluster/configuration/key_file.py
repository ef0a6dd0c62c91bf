"""Read cluster.key from disk, and cache the key that was derived from words.

Deriving a key from words takes 0.3 s and 128 MB (key.py), so the result is kept beside the configuration, readable
only by root, for as long as the line does not change. The cache also identifies a line of an older package, which has
no prefix.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os

from ..definition import key as keys
from ..definition.key import ClusterKey
from ..ground import paths
from ..ground.errors import ClusterError, ServerError
from ..machine import hands


def text() -> str:
    """Return the text of cluster.key; raises ServerError."""
    try:
        return paths.CLUSTER_KEY.read_text(encoding="ascii", errors="replace")
    except PermissionError as error:
        raise ServerError(f"{paths.CLUSTER_KEY}: {error.strerror}", hint="run it as root") from error
    except OSError as error:
        raise ServerError(f"{paths.CLUSTER_KEY}: {error.strerror}", hint=keys.HINT) from error


def read() -> ClusterKey:
    """Return the cluster's key; raises ServerError or UsageError."""
    held, file = text(), str(paths.CLUSTER_KEY)
    line = keys.one_line(held, file)
    if not keys.is_words(line):
        return keys.parse(held, file)
    kept = _kept(line)
    if kept is None:
        kept = keys.parse(held, file, laid=paths.laid_fingerprint())
        _keep(line, kept)
    return kept


def _mark(line: str) -> str:
    return hashlib.sha256(line.encode("ascii", "replace")).hexdigest()


def _kept(line: str) -> ClusterKey | None:
    """Return the cached key of exactly this line; None if there is none."""
    with contextlib.suppress(OSError, ValueError):
        mark, secret = paths.DERIVED_KEY.read_text(encoding="ascii").split()
        if mark == _mark(line):
            return ClusterKey(base64.b64decode(secret, validate=True))
    return None


def _keep(line: str, key: ClusterKey) -> None:
    """Cache the key if possible; otherwise it is derived again next time."""
    if os.geteuid() == 0:
        with contextlib.suppress(ClusterError):
            hands.make_folder(paths.DERIVED_KEY.parent, 0o755)
            hands.write(paths.DERIVED_KEY, f"{_mark(line)} {base64.b64encode(key.secret).decode()}\n".encode(), 0o600)
