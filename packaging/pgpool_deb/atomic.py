"""Small files that are whole whenever they are read."""

from __future__ import annotations

import os
import threading
from pathlib import Path


def write(path: Path, text: str) -> None:
    """Write a small file so that a reader finds the old or the new one; a failure leaves the old one, and OSError."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
