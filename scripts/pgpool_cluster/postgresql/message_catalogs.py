"""Read PostgreSQL's own message catalogs, for logs in any language."""

from __future__ import annotations

import gettext
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from ..ground import paths

_PASSING = (
    "the database system is starting up",
    "the database system is shutting down",
    "the database system is in recovery mode",
    "the database system is not yet accepting connections",
    "the database system is not accepting connections",
    "terminating connection due to administrator command",
    "terminating walreceiver process due to administrator command",
)
"""FATAL messages that do not explain why a server ended."""


@dataclass(frozen=True, slots=True)
class Words:
    """The words of one major version in all its languages; texts with %s become patterns."""

    fatal: frozenset[str]
    detail: frozenset[str]
    starting: re.Pattern[str]
    passing: re.Pattern[str]


def languages(major: int) -> list[gettext.NullTranslations]:
    """Return the message catalogs of PostgreSQL `major`, English first."""
    found: list[gettext.NullTranslations] = [gettext.NullTranslations()]
    for path in sorted(paths.LOCALES.glob(f"*/LC_MESSAGES/postgres-{major}.mo")):
        try:
            with path.open("rb") as stream:
                found.append(gettext.GNUTranslations(stream))
        except (OSError, ValueError):  # ignore a damaged catalog
            continue
    return found


@lru_cache
def words(major: int) -> Words:
    """Return the words of PostgreSQL `major`, from the catalogs in its package."""
    catalogs = languages(major)

    def said(*texts: str) -> frozenset[str]:
        return frozenset(catalog.gettext(text).strip(": ") for catalog in catalogs for text in texts)

    def pattern(texts: Iterable[str]) -> re.Pattern[str]:
        return re.compile("|".join(re.escape(text).replace("%s", "PostgreSQL .*") for text in sorted(texts)))

    return Words(said("FATAL", "PANIC"), said("DETAIL:  "), pattern(said("starting %s")), pattern(said(*_PASSING)))
