"""What Debian's security tracker says of one CVE, as an entry of sources.toml. Its page is anybody's text."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from html.parser import HTMLParser

from .pins import Advisory

SOURCE = "pgpool2"
_FIXED = re.compile(r"([0-9]+\.[0-9]+\.[0-9]+)-1")
"""The first package of an upstream version: upstream mended what it mends. A later one may have Debian's own patch."""
_WIDTH = 100


def advisory(cve: str, page: str) -> Advisory | None:
    """Return what is known of a CVE; None where the page names no release of upstream's that mended it."""
    rows = _Rows()
    rows.feed(page)
    fixed = next(_fixed(rows.found), None)
    said = next((row[1] for row in rows.found if len(row) > 1 and row[0] == "Description"), "")
    text = "".join(letter if letter.isprintable() else " " for letter in said)
    summary = textwrap.shorten(text.partition(". ")[0].strip(), _WIDTH, placeholder=" …")
    return None if fixed is None else Advisory((cve,), summary or "see Debian's security tracker", fixed)


def _fixed(rows: list[list[str]]) -> Iterator[str]:
    """Yield the release that mended it in unstable: of rows with package, type, release, fixed version, and more."""
    for row in rows:
        if row[:3] == [SOURCE, "source", "(unstable)"] and len(row) > len(row[:3]):
            match = _FIXED.fullmatch(row[3])
            if match is not None:
                yield match[1]


def block(known: Advisory) -> str:
    """Return an entry of sources.toml."""
    cves = ", ".join(json.dumps(cve) for cve in known.cves)
    summary = json.dumps(known.summary, ensure_ascii=False)
    return f'[[advisory]]\ncves = [{cves}]\nsummary = {summary}\nfixed_in = "{known.fixed_in}"\n'


class _Rows(HTMLParser):
    """Gathers the text of the cells of all tables, row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[list[str]] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.found.append([])
        elif tag in ("td", "th") and self.found:
            self.found[-1].append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "tr"):
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.found[-1][-1] += data.strip("\n")
