"""Parse the in-toto statement about a build, and name the files that are published beside a .deb."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

TYPE = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
STATEMENT = ".intoto.json"
"""Replaces `.buildinfo` in the name of a build's statement."""
SIGNATURE = ".asc"
"""Follows the name of a signed file."""
CYCLONEDX, SPDX = ".cdx.json", ".spdx.json"
"""Replace `.deb` in the names of its bills of materials."""


@dataclass(frozen=True, slots=True)
class Statement:
    """The contents of a statement: SHA-256 by name of the .debs, of their materials, and of the files beside them."""

    subjects: Mapping[str, str]
    materials: Mapping[str, str]
    byproducts: Mapping[str, str]

    @classmethod
    def parse(cls, data: bytes) -> Statement:
        """Parse a statement; raises ValueError if it is not one of ours."""
        try:
            document = json.loads(data)
            if (document["_type"], document["predicateType"]) != (TYPE, PREDICATE):
                raise ValueError("its predicateType or payload is of another kind")
            predicate = document["predicate"]
            return cls(
                _digests(document["subject"]),
                _digests(predicate["buildDefinition"]["resolvedDependencies"]),
                _digests(predicate["runDetails"]["byproducts"]),
            )
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError("a required key is missing or malformed") from error


def _digests(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the SHA-256 by name; rows without a name, such as Debian packages, have a URI instead."""
    return {str(row["name"]): str(row["digest"]["sha256"]) for row in rows if "name" in row}
