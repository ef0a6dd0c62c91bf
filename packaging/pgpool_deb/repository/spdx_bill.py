"""A bill of materials as SPDX 2.3 has it, by spdx-tools.

The .deb is GENERATED_FROM the source package, that is a DESCENDANT_OF upstream's tarball, which our patches were
applied to. What the .deb depends on are packages without a version, as debian/control leaves that open.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from boolean import Expression
from spdx_tools.spdx.jsonschema.document_converter import DocumentConverter
from spdx_tools.spdx.model import (
    Actor,
    ActorType,
    Checksum,
    ChecksumAlgorithm,
    CreationInfo,
    Document,
    ExternalPackageRef,
    ExternalPackageRefCategory,
    ExtractedLicensingInfo,
    File,
    FileType,
    Package,
    PackagePurpose,
    Relationship,
    RelationshipType,
    SpdxNoAssertion,
)

from .bill import AUTHOR, Bill, Dependency, Source

_NAMESPACE = "https://spdx.org/spdxdocs"
"""What the specification has for those who have no place of their own; nothing lies there."""
_DOCUMENT = "SPDXRef-DOCUMENT"
_PACKAGE = "SPDXRef-Package"
_SOURCE = "SPDXRef-Source"
_UPSTREAM = "SPDXRef-Upstream"
_PERSON = re.compile(r"(?P<name>[^<]*?)\s*(?:<(?P<mail>[^>]*)>)?\s*")


@dataclass(slots=True)
class _Elements:
    """What a document holds."""

    packages: list[Package] = field(default_factory=list)
    files: list[File] = field(default_factory=list)
    relationships: list[Relationship] = field(default_factory=list)


def text(bill: Bill) -> str:
    """Return the document; the same bill gives the same bytes."""
    converter = DocumentConverter()  # type: ignore[no-untyped-call]
    return json.dumps(converter.convert(document(bill)), ensure_ascii=False) + "\n"


def document(bill: Bill) -> Document:
    """Return the document as spdx-tools has it."""
    found = _Elements([_package(bill)], [], [Relationship(_DOCUMENT, RelationshipType.DESCRIBES, _PACKAGE)])
    _add_source(found, bill.source)
    for number, dependency in enumerate(bill.dependencies):
        _add_dependency(found, dependency, f"SPDXRef-Dependency-{number}")
    return Document(
        CreationInfo(
            spdx_version="SPDX-2.3",
            spdx_id=_DOCUMENT,
            name=bill.stem,
            document_namespace=f"{_NAMESPACE}/{bill.stem}-{bill.identity}",
            creators=[Actor(ActorType.TOOL, AUTHOR)],
            created=bill.built.replace(tzinfo=None),
        ),
        packages=found.packages,
        files=found.files,
        relationships=found.relationships,
        extracted_licensing_info=list(_texts(bill.source)),
    )


def _package(bill: Bill) -> Package:
    return Package(
        spdx_id=_PACKAGE,
        name=bill.name,
        version=bill.version,
        file_name=bill.file.name,
        download_location=SpdxNoAssertion(),
        supplier=_supplier(bill.maintainer),
        files_analyzed=False,
        checksums=_sum(bill.file.sha256),
        homepage=bill.homepage or None,
        source_info=f"built as {bill.buildinfo.name} says, whose SHA-256 is {bill.buildinfo.sha256}",
        license_concluded=SpdxNoAssertion(),
        license_declared=_licences(bill.source),
        license_comment="of the whole source package",
        copyright_text="\n".join(bill.source.licences.holders) or SpdxNoAssertion(),
        summary=bill.summary or None,
        external_references=[_purl(bill.purl.to_string())],
        primary_package_purpose=PackagePurpose.APPLICATION,
        built_date=bill.built.replace(tzinfo=None),
    )


def _add_source(found: _Elements, source: Source) -> None:
    found.packages.append(
        Package(
            spdx_id=_SOURCE,
            name=source.name,
            version=source.version,
            file_name=source.dsc.name,
            download_location=SpdxNoAssertion(),
            files_analyzed=False,
            checksums=_sum(source.dsc.sha256),
            license_concluded=SpdxNoAssertion(),
            license_declared=_licences(source),
            copyright_text="\n".join(source.licences.holders) or SpdxNoAssertion(),
            external_references=[_purl(source.purl.to_string())],
            primary_package_purpose=PackagePurpose.SOURCE,
        )
    )
    found.relationships.append(Relationship(_PACKAGE, RelationshipType.GENERATED_FROM, _SOURCE))
    for number, archive in enumerate(source.origin.archives):
        upstream = archive == source.origin.upstream
        name = _UPSTREAM if upstream else f"SPDXRef-Archive-{number}"
        found.packages.append(
            Package(
                spdx_id=name,
                name=archive.name,
                version=source.origin.upstream_version if upstream else None,
                file_name=archive.name,
                download_location=(source.address if upstream else "") or SpdxNoAssertion(),
                files_analyzed=False,
                checksums=_sum(archive.sha256),
                primary_package_purpose=PackagePurpose.ARCHIVE,
            )
        )
        found.relationships.append(Relationship(_SOURCE, RelationshipType.CONTAINS, name))
    if source.origin.upstream:
        found.relationships.append(Relationship(_SOURCE, RelationshipType.DESCENDANT_OF, _UPSTREAM))
        found.relationships.append(Relationship(_PACKAGE, RelationshipType.GENERATED_FROM, _UPSTREAM))
    _add_patches(found, source)


def _add_patches(found: _Elements, source: Source) -> None:
    for number, patch in enumerate(source.debian.patches):
        name = f"SPDXRef-Patch-{number}"
        sums = [Checksum(ChecksumAlgorithm.SHA1, patch.sha1), *_sum(patch.sha256)]
        found.files.append(File(f"./{patch.path}", name, sums, file_types=[FileType.SOURCE]))
        to = _UPSTREAM if source.origin.upstream else _SOURCE
        found.relationships.append(Relationship(name, RelationshipType.PATCH_APPLIED, to))


def _add_dependency(found: _Elements, one: Dependency, name: str) -> None:
    found.packages.append(
        Package(
            spdx_id=name,
            name=one.name,
            version=one.purl.version,
            download_location=SpdxNoAssertion(),
            files_analyzed=False,
            external_references=[_purl(one.purl.to_string())],
        )
    )
    said = f"{one.field}: {one.clause}"
    if one.needed:
        found.relationships.append(Relationship(_PACKAGE, RelationshipType.DEPENDS_ON, name, said))
    else:
        found.relationships.append(Relationship(name, RelationshipType.OPTIONAL_DEPENDENCY_OF, _PACKAGE, said))


def _texts(source: Source) -> Iterator[ExtractedLicensingInfo]:
    for name, wording in source.licences.texts:
        yield ExtractedLicensingInfo(name, wording, license_name=name.removeprefix("LicenseRef-"))


def _licences(source: Source) -> Expression | SpdxNoAssertion:
    expression = source.licences.expression
    return SpdxNoAssertion() if expression is None else expression


def _purl(locator: str) -> ExternalPackageRef:
    return ExternalPackageRef(ExternalPackageRefCategory.PACKAGE_MANAGER, "purl", locator)


def _sum(sha256: str) -> list[Checksum]:
    return [Checksum(ChecksumAlgorithm.SHA256, sha256)] if sha256 else []


def _supplier(maintainer: str) -> Actor | SpdxNoAssertion:
    found = _PERSON.fullmatch(maintainer)
    if found is None or not found["name"]:
        return SpdxNoAssertion()
    return Actor(ActorType.ORGANIZATION, found["name"], found["mail"])
