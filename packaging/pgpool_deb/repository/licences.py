"""Convert debian/copyright to an SPDX licence expression and a list of copyright holders.

debian/copyright describes the source package, so its declarations apply to every package that is built from it. A
licence without an SPDX name becomes a `LicenseRef-…`, with its text.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from debian.copyright import Copyright, Error
from license_expression import get_spdx_licensing

_SPDX = get_spdx_licensing()
_GNU = re.compile(r"(?P<name>A?GPL|LGPL)-(?P<major>\d)(?P<minor>\.\d)?(?:\.0)?(?P<later>\+?)")
_EXCEPTIONS = {
    "Bison exception": "Bison-exception-2.2",
    "Autoconf exception": "Autoconf-exception-generic",
    "Libtool exception": "Libtool-exception",
}
_JOINED = re.compile(r"\s+(and|or)\s+")
_NOT_OF_A_NAME = re.compile(r"[^A-Za-z0-9.-]+")


@dataclass(frozen=True, slots=True)
class Licences:
    """The declarations of a debian/copyright; `expression` is None if none can be parsed.

    `texts` holds the texts of licences without an SPDX name, by their `LicenseRef-…`. `holders` are verbatim.
    """

    expression: str | None
    texts: tuple[tuple[str, str], ...]
    holders: tuple[str, ...]


@lru_cache(maxsize=16)
def declared(text: str) -> Licences:
    """Parse a debian/copyright; the order of the result depends only on its text."""
    try:
        with warnings.catch_warnings(action="ignore"):
            found = Copyright(text.splitlines(keepends=True), strict=False)
    except (Error, ValueError):
        return Licences(None, (), ())
    # the library declares the types of its descriptors, not of their values
    stanzas: list[Any] = [found.header, *found.all_files_paragraphs()]
    licences: list[Any] = list(found.all_license_paragraphs())
    texts = {one.license.synopsis: one.license.text for one in licences}
    terms: dict[str, None] = {}
    holders: dict[str, None] = {}
    unknown: dict[str, str] = {}
    for paragraph in stanzas:
        holders |= dict.fromkeys(line.strip() for line in (paragraph.copyright or "").splitlines() if line.strip())
        if paragraph.license is None:
            continue
        term = "".join(_terms(paragraph.license.synopsis, texts, paragraph.license.text, unknown))
        terms[f"({term})"] = None
    expression = str(_SPDX.parse(" AND ".join(terms)).simplify()) if terms else None
    return Licences(expression, tuple(sorted(unknown.items())), tuple(holders))


def _terms(names: str, texts: dict[str, str], own: str, unknown: dict[str, str]) -> Iterator[str]:
    """Yield the parts of an SPDX expression; adds licences without an SPDX name to `unknown`, with their text."""
    for word in _JOINED.split(names):
        if word in ("and", "or"):
            yield f" {word.upper()} "
        elif (known := _known(word)) is not None:
            yield known
        else:
            reference = f"LicenseRef-{_NOT_OF_A_NAME.sub('-', word)}"
            unknown[reference] = texts.get(word) or own or word
            yield reference


def _known(name: str) -> str | None:
    """Return the SPDX name of a licence of debian/copyright, None if it has none."""
    base, _, exception = name.partition(" with ")
    if gnu := _GNU.fullmatch(base):
        base = f"{gnu['name']}-{gnu['major']}{gnu['minor'] or '.0'}-{'or-later' if gnu['later'] else 'only'}"
    found = _SPDX.known_symbols_lowercase.get(base.lower())
    if found is None or (exception and exception not in _EXCEPTIONS):
        return None
    return f"{found} WITH {_EXCEPTIONS[exception]}" if exception else str(found)
