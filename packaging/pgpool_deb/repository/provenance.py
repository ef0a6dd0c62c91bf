"""Write the provenance of a source package's binaries as an in-toto statement.

The statement (in-toto 1, SLSA provenance 1) is derived from the files published beside it, so every user can check it.
The .buildinfo names the toolchain. The .dsc names upstream's tarball and our files, which contain the patches. The
byproducts are the other files of the build that are published but not signed themselves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgpool_deb.builds.record import BuildRecord
from pgpool_deb.builds.statement import PREDICATE, TYPE
from pgpool_deb.upstream.download import sha256_of

from .stanzas import PoolFile

if TYPE_CHECKING:
    from .bill import BilledSource  # loads the SPDX licence list, which a check of statements does not need

BUILD_TYPE = "urn:pgpool-deb:dpkg-buildpackage:1"
"""`externalParameters`: the source package and the release; `internalParameters`: the path and the environment."""


def statement(record: BuildRecord, source: BilledSource, release: str, more: Sequence[PoolFile] = ()) -> dict[str, Any]:
    """Return the statement about the .debs built from a source package; `more` lists further byproducts."""
    return {
        "_type": TYPE,
        "subject": [_digest(name, sha256) for name, sha256 in sorted(record.sums.items()) if name.endswith(".deb")],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"source": record.dsc.name, "release": release},
                "internalParameters": {"path": record.build_path, "environment": dict(record.environment)},
                "resolvedDependencies": [
                    *_sources(record, source),
                    *_toolchain(record.installed, record.architecture, release),
                ],
            },
            "runDetails": {
                "builder": {"id": f"urn:pgpool-deb:builder:{record.origin}".lower()},
                "metadata": {"finishedOn": record.built.isoformat()} if record.built else {},
                "byproducts": [
                    _digest(record.path.name, sha256_of(record.path)),
                    *(_digest(Path(file.path).name, file.sha256) for file in more),
                ],
            },
        },
    }


def text(made: Mapping[str, Any]) -> str:
    """Return the published text of a statement, with sorted keys."""
    return json.dumps(made, sort_keys=True) + "\n"


def _digest(name: str, sha256: str, **more: str) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": sha256}, **more}


def _sources(record: BuildRecord, source: BilledSource) -> list[dict[str, Any]]:
    """Return the source package, upstream's tarball with its URL, and each patch."""
    found = [_digest(record.dsc.name, record.sums[record.dsc.name])]
    for archive in source.origin.archives:
        address = source.address if archive == source.origin.upstream else ""
        found.append(_digest(archive.name, archive.sha256, **({"uri": address} if address else {})))
    found += [_digest(patch.path, patch.sha256) for patch in source.debian.patches]
    return found


def _toolchain(installed: frozenset[str], architecture: str, release: str) -> list[dict[str, Any]]:
    """Return the installed packages as package URLs."""
    pairs = (one.split("=", 1) for one in sorted(installed))
    return [
        {"uri": f"pkg:deb/debian/{name}@{version}?arch={architecture}&distro={release}".replace("+", "%2B")}
        for name, version in pairs
    ]
