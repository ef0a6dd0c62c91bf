"""What a source package's binaries were made from, where and how: an in-toto statement with SLSA's provenance.

The statement (in-toto 1, SLSA provenance 1) is written from what was published beside it, so anybody can check it: the
.buildinfo names the toolchain, the .dsc upstream's tarball and our files, and the latter hold the patches.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from debian.deb822 import BuildInfo

from pgpool_deb.download import sha256_of
from pgpool_deb.pins import Pins
from pgpool_deb.rebuild import Record

from .stanzas import PoolFile

TYPE = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:pgpool-deb:dpkg-buildpackage:1"
"""`externalParameters`: the source package and the release; `internalParameters`: the path and the environment."""
SUFFIX = ".intoto.json"
_PATCHES = "debian/patches/"


def statement(record: Record, files: Sequence[PoolFile], release: str, pins: Pins) -> dict[str, Any]:
    """Return the statement about the .debs of a build; `files` are all of the upload, beside the .buildinfo."""
    by_name = {Path(file.path).name: file for file in files}
    info = BuildInfo(record.path.read_text(encoding="utf-8"))
    architecture = str(info["Build-Architecture"])
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
                    *_sources(by_name, record, pins),
                    *_toolchain(record.installed, architecture, release),
                ],
            },
            "runDetails": {
                "builder": {"id": f"urn:pgpool-deb:builder:{info['Build-Origin']}".lower()},
                "metadata": {"finishedOn": parsedate_to_datetime(str(info["Build-Date"])).isoformat()},
                "byproducts": [_digest(record.path.name, sha256_of(record.path))],
            },
        },
    }


def text(made: Mapping[str, Any]) -> str:
    """Return a statement as it is published, always in the same order."""
    return json.dumps(made, indent=1, sort_keys=True) + "\n"


def _digest(name: str, sha256: str, **more: str) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": sha256}, **more}


def _sources(by_name: Mapping[str, PoolFile], record: Record, pins: Pins) -> list[dict[str, Any]]:
    """Return the source package, upstream's tarball with where it is from, and each patch."""
    found = [_digest(record.dsc.name, record.sums[record.dsc.name])]
    pinned = {pin.sha256: pin.version for pin in pins.pins}
    for name, file in sorted(by_name.items()):
        if ".orig.tar." in name:
            version = pinned.get(file.sha256)
            upstream = next((one for one in pins.addresses if version and "{mirror}" not in one), "")
            more = {"uri": upstream.format(version=version)} if upstream else {}
            found.append(_digest(name, file.sha256, **more))
        elif ".tar." in name:
            found.append(_digest(name, file.sha256))
            with tarfile.open(record.path.with_name(name)) as tar:
                for member in tar.getmembers():
                    stream = tar.extractfile(member) if member.name.startswith(_PATCHES) and member.isfile() else None
                    if stream is not None and member.name.endswith(".patch"):
                        found.append(_digest(member.name, hashlib.sha256(stream.read()).hexdigest()))
    return found


def _toolchain(installed: frozenset[str], architecture: str, release: str) -> list[dict[str, Any]]:
    """Return what was installed, as package URLs."""
    pairs = (one.split("=", 1) for one in sorted(installed))
    return [
        {"uri": f"pkg:deb/debian/{name}@{version}?arch={architecture}&distro={release}".replace("+", "%2B")}
        for name, version in pairs
    ]
