"""Turn the page of Debian's security tracker on a CVE into an entry of sources.toml. The page is untrusted text."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from html.parser import HTMLParser

from .pins import Advisory

SOURCE = "pgpool2"
_FIXED = re.compile(r"([0-9]+\.[0-9]+\.[0-9]+)-1")
"""Revision 1 has only upstream's fixes; a later revision may fix the CVE with Debian's own patch."""
_SUMMARY_COLUMNS = 100


def advisory(cve: str, page: str) -> Advisory | None:
    """Return the advisory for a CVE, None if the page names no upstream release that fixed it."""
    parser = _Rows()
    parser.feed(page)
    fixed = next(_fixed(parser.rows), None)
    description = next((row[1] for row in parser.rows if len(row) > 1 and row[0] == "Description"), "")
    text = "".join(letter if letter.isprintable() else " " for letter in description)
    summary = textwrap.shorten(text.partition(". ")[0].strip(), _SUMMARY_COLUMNS, placeholder=" …")
    return None if fixed is None else Advisory((cve,), summary or "see Debian's security tracker", fixed)


def _fixed(rows: list[list[str]]) -> Iterator[str]:
    """Yield the upstream release that fixed it in unstable; a row has package, type, release, fixed version, etc."""
    for row in rows:
        if row[:3] == [SOURCE, "source", "(unstable)"] and len(row) > len(row[:3]):
            match = _FIXED.fullmatch(row[3])
            if match is not None:
                yield match[1]


def block(known: Advisory) -> str:
    """Return the advisory as an entry of sources.toml."""
    cves = ", ".join(json.dumps(cve) for cve in known.cves)
    summary = json.dumps(known.summary, ensure_ascii=False)
    return f'[[advisory]]\ncves = [{cves}]\nsummary = {summary}\nfixed_in = "{known.fixed_in}"\n'


class _Rows(HTMLParser):
    """Collects the text of the cells of all tables in `rows`."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "tr"):
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.rows[-1][-1] += data.strip("\n")
