"""Render a bill of materials as SPDX 2.3 JSON. Pure; tests validate every document with spdx-tools.

The .deb is GENERATED_FROM the source package. That is a DESCENDANT_OF upstream's tarball, to which our patches were
applied. Dependencies are packages without a version, because debian/control does not fix one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from .bill import AUTHOR, Bill, BilledSource, Dependency, person

SpdxElement = dict[str, Any]
_NAMESPACE = "https://spdx.org/spdxdocs"
"""The namespace that the specification offers to authors without a web site; its URLs need not exist."""
_DOCUMENT = "SPDXRef-DOCUMENT"
_PACKAGE = "SPDXRef-Package"
_SOURCE = "SPDXRef-Source"
_UPSTREAM = "SPDXRef-Upstream"
_UNKNOWN = "NOASSERTION"
_TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True)
class _SpdxElements:
    """The elements of a source package, which the documents of all its .debs share."""

    packages: list[SpdxElement] = field(default_factory=list)
    files: list[SpdxElement] = field(default_factory=list)
    relationships: list[SpdxElement] = field(default_factory=list)


def text(bill: Bill) -> str:
    """Return the document; the same bill gives the same bytes."""
    source = _source(bill.source)
    dependencies = [(f"SPDXRef-Dependency-{number}", one) for number, one in enumerate(bill.dependencies)]
    document = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": _DOCUMENT,
        "name": bill.stem,
        "documentNamespace": f"{_NAMESPACE}/{bill.stem}-{bill.identity}",
        "creationInfo": {"created": bill.built.strftime(_TIME), "creators": [f"Tool: {AUTHOR}"]},
        "packages": [_package(bill), *source.packages, *(_dependency(name, one) for name, one in dependencies)],
        **_told(files=source.files),
        "relationships": [
            _relationship(_DOCUMENT, "DESCRIBES", _PACKAGE),
            *source.relationships,
            *(_need(name, one) for name, one in dependencies),
        ],
        **_told(hasExtractedLicensingInfos=[_wording(name, text) for name, text in bill.source.licences.texts]),
    }
    return json.dumps(document, ensure_ascii=False) + "\n"


def _told(**values: object) -> SpdxElement:
    """Return the non-empty values."""
    return {name: value for name, value in values.items() if value}


def _element(spdx_id: str, name: str, where: str = _UNKNOWN, **more: object) -> SpdxElement:
    """Return a package element without a list of its files."""
    return {"SPDXID": spdx_id, "name": name, "downloadLocation": where, "filesAnalyzed": False, **_told(**more)}


def _package(bill: Bill) -> SpdxElement:
    return _element(
        _PACKAGE,
        bill.name,
        versionInfo=bill.version,
        packageFileName=bill.file.name,
        supplier=_supplier(bill.maintainer),
        checksums=_sum(bill.file.sha256),
        homepage=bill.homepage,
        sourceInfo=f"built as recorded in {bill.buildinfo.name} (SHA-256 {bill.buildinfo.sha256})",
        **_rights(bill.source),
        licenseComments="licences of the whole source package",
        summary=bill.summary,
        externalRefs=_purl(bill.purl),
        primaryPackagePurpose="APPLICATION",
        builtDate=bill.built.strftime(_TIME),
    )


@lru_cache(maxsize=4)
def _source(source: BilledSource) -> _SpdxElements:
    """Return the source package, its files and patches, and their relationships."""
    package = _element(
        _SOURCE,
        source.name,
        versionInfo=source.version,
        packageFileName=source.dsc.name,
        checksums=_sum(source.dsc.sha256),
        **_rights(source),
        externalRefs=_purl(source.purl),
        primaryPackagePurpose="SOURCE",
    )
    found = _SpdxElements([package], [], [_relationship(_PACKAGE, "GENERATED_FROM", _SOURCE)])
    for number, archive in enumerate(source.origin.archives):
        upstream = archive == source.origin.upstream
        name = _UPSTREAM if upstream else f"SPDXRef-Archive-{number}"
        found.packages.append(
            _element(
                name,
                archive.name,
                (source.address if upstream else "") or _UNKNOWN,
                versionInfo=source.origin.upstream_version if upstream else "",
                packageFileName=archive.name,
                checksums=_sum(archive.sha256),
                primaryPackagePurpose="ARCHIVE",
            )
        )
        found.relationships.append(_relationship(_SOURCE, "CONTAINS", name))
    if source.origin.upstream:
        found.relationships.append(_relationship(_SOURCE, "DESCENDANT_OF", _UPSTREAM))
        found.relationships.append(_relationship(_PACKAGE, "GENERATED_FROM", _UPSTREAM))
    _add_patches(found, source)
    return found


def _add_patches(found: _SpdxElements, source: BilledSource) -> None:
    to = _UPSTREAM if source.origin.upstream else _SOURCE
    for number, patch in enumerate(source.debian.patches):
        name = f"SPDXRef-Patch-{number}"
        sums = [{"algorithm": "SHA1", "checksumValue": patch.sha1}, *_sum(patch.sha256)]
        found.files.append({"SPDXID": name, "fileName": f"./{patch.path}", "checksums": sums, "fileTypes": ["SOURCE"]})
        found.relationships.append(_relationship(name, "PATCH_APPLIED", to))


def _dependency(name: str, one: Dependency) -> SpdxElement:
    return _element(name, one.name, versionInfo=one.version, externalRefs=_purl(one.purl))


def _need(name: str, one: Dependency) -> SpdxElement:
    """Return the relationship between the .deb and a package that it depends on, recommends or suggests."""
    comment = f"{one.field}: {one.clause}"
    if one.needed:
        return _relationship(_PACKAGE, "DEPENDS_ON", name, comment)
    return _relationship(name, "OPTIONAL_DEPENDENCY_OF", _PACKAGE, comment)


def _relationship(one: str, kind: str, other: str, comment: str = "") -> SpdxElement:
    related = {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}
    return {**related, **_told(comment=comment)}


def _rights(source: BilledSource) -> SpdxElement:
    """Return the licences and holders, which debian/copyright declares for the whole source package."""
    return {
        "licenseConcluded": _UNKNOWN,
        "licenseDeclared": source.licences.expression or _UNKNOWN,
        "copyrightText": "\n".join(source.licences.holders) or _UNKNOWN,
    }


def _wording(name: str, text: str) -> SpdxElement:
    return {"licenseId": name, "name": name.removeprefix("LicenseRef-"), "extractedText": text}


def _purl(locator: str) -> list[SpdxElement]:
    return [{"referenceCategory": "PACKAGE_MANAGER", "referenceType": "purl", "referenceLocator": locator}]


def _sum(sha256: str) -> list[SpdxElement]:
    return [{"algorithm": "SHA256", "checksumValue": sha256}] if sha256 else []


def _supplier(maintainer: str) -> str:
    name, mail = person(maintainer)
    if not name:
        return _UNKNOWN
    return f"Organization: {name} ({mail})" if mail else f"Organization: {name}"
