"""Compare licences and copyright holders stated in files with debian/copyright."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from debian.copyright import Copyright

HOLDERS = {
    "pgpool global development group": r"copyright[^\n]*pgpool global development",
    "postgresql global development group": r"copyright[^\n]*(?:\n[ *]*)?postgresql global development",
    "regents of the university of california": r"copyright[^\n]*(?:\n[ *]*)?regents of the university",
    "tatsuo ishii": r"copyright[^\n]*tatsuo ishii",
    "free software foundation": r"copyright[^\n]*free software",
    "eric p. allman": r"copyright[^\n]*allman",
    "todd c. miller": r"copyright[^\n]*miller",
    "aaron d. gifford": r"copyright[^\n]*gifford",
    "james mclaughlin": r"copyright[^\n]*mclaughlin",
    "x consortium": r"copyright[^\n]*x consortium",
}
"""Holders as named in debian/copyright, in lower case, and patterns of their names in files."""
LICENCES = {
    "pgpool-II": "the author makes no representations about the suitability",
    "BSD": "redistributions of source code must retain",
    "GPL": "under the terms of the gnu general public license",
    "ISC": "with or without fee is hereby granted",
    "FSF": "gives unlimited permission to copy",
    "X11": "the x consortium shall not",
}
"""Parts of licences' short names, and wording of files under these licences."""
_ANY_HOLDER = re.compile(r"copyright (?:\(c\)|©)?[ \t]*\d{4}[-0-9, \t]*(?P<who>[a-z][^\n]*)")


def parsed(path: Path) -> Copyright:
    """Parse a debian/copyright; warnings are errors."""
    with warnings.catch_warnings(action="error"), path.open(encoding="utf-8") as handle:
        return Copyright(handle, strict=True)


def faults(files: dict[str, str], said: Copyright) -> Iterator[str]:
    """Yield one line for each holder or licence that a file (path: text) states and its stanza omits."""
    for path, text in files.items():
        stanza: Any = said.find_files_paragraph(path)
        lower = text.lower()
        words = re.sub(r"[\s*#]+", " ", lower)
        holders = stanza.copyright.lower()
        for holder, pattern in HOLDERS.items():
            if re.search(pattern, lower) and holder not in holders:
                yield f"{path}: {holder}"
        for licence, wording in LICENCES.items():
            if wording in words and licence not in stanza.license.synopsis:
                yield f"{path}: {licence}"
        for found in _ANY_HOLDER.finditer(lower):
            if not any(re.search(pattern, f"copyright {found['who']}") for pattern in HOLDERS.values()):
                yield f"{path}: {found['who']}, unknown to debian/copyright"
