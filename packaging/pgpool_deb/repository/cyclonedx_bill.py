"""A bill of materials as CycloneDX 1.6 has it, by cyclonedx-python-lib.

The .deb is what the document is about; its pedigree leads to the source package, and from there with our patches to
upstream's tarball. What it depends on are components without a version, as debian/control leaves that open.
"""

from __future__ import annotations

import re
from functools import lru_cache

from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import (
    Component,
    ComponentScope,
    ComponentType,
    Diff,
    Patch,
    PatchClassification,
    Pedigree,
)
from cyclonedx.model.contact import OrganizationalContact, OrganizationalEntity
from cyclonedx.model.dependency import Dependency as Edge
from cyclonedx.model.license import LicenseAcknowledgement, LicenseExpression
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output.json import JsonV1Dot6

from .bill import AUTHOR, Bill, Dependency, Source

_PERSON = re.compile(r"(?P<name>[^<]*?)\s*(?:<(?P<mail>[^>]*)>)?\s*")


def text(bill: Bill) -> str:
    """Return the document; the same bill gives the same bytes."""
    about = _package(bill)
    dependencies = [_dependency(one) for one in bill.dependencies]
    edges = [Edge(one.bom_ref) for one in dependencies]
    document = Bom(
        serial_number=bill.identity,
        metadata=BomMetaData(
            timestamp=bill.built,
            tools=ToolRepository(components=[Component(name=AUTHOR, type=ComponentType.APPLICATION, bom_ref=AUTHOR)]),
            component=about,
        ),
        components=dependencies,
        dependencies=[Edge(about.bom_ref, edges), *edges],
    )
    return str(JsonV1Dot6(document).output_as_string()) + "\n"


def _package(bill: Bill) -> Component:
    references = [
        ExternalReference(
            type=ExternalReferenceType.BUILD_META, url=XsUri(bill.buildinfo.name), hashes=_hash(bill.buildinfo.sha256)
        )
    ]
    if bill.homepage:
        references.append(ExternalReference(type=ExternalReferenceType.WEBSITE, url=XsUri(bill.homepage)))
    return Component(
        name=bill.name,
        type=ComponentType.APPLICATION,
        bom_ref=bill.purl.to_string(),
        version=bill.version,
        supplier=_supplier(bill.maintainer),
        description=bill.summary or None,
        hashes=_hash(bill.file.sha256),
        licenses=_licences(bill.source),
        copyright="\n".join(bill.source.licences.holders) or None,
        purl=bill.purl,
        external_references=references,
        pedigree=Pedigree(ancestors=[_source(bill.source)]),
    )


@lru_cache(maxsize=4)
def _source(source: Source) -> Component:
    """Return the source package, whose parts are files, and what it was made from."""
    archive, upstream = source.origin.packaging.name, source.origin.upstream
    patches = [
        Patch(type=PatchClassification.UNOFFICIAL, diff=Diff(url=XsUri(f"{archive}#{one.path}")))
        for one in source.debian.patches
    ]
    return Component(
        name=source.name,
        type=ComponentType.APPLICATION,
        bom_ref=source.purl.to_string(),
        version=source.version,
        hashes=_hash(source.dsc.sha256),
        licenses=_licences(source),
        purl=source.purl,
        external_references=[
            ExternalReference(
                type=ExternalReferenceType.SOURCE_DISTRIBUTION,
                url=XsUri(source.dsc.name),
                hashes=_hash(source.dsc.sha256),
            )
        ],
        components=[_file(one.name, one.sha256) for one in source.origin.archives],
        pedigree=Pedigree(ancestors=[_upstream(source)] if upstream else (), patches=patches) if upstream else None,
    )


def _upstream(source: Source) -> Component:
    tarball = source.origin.archives[0]
    where = [
        ExternalReference(
            type=ExternalReferenceType.SOURCE_DISTRIBUTION, url=XsUri(source.address), hashes=_hash(tarball.sha256)
        )
    ]
    return Component(
        name=source.name,
        type=ComponentType.APPLICATION,
        bom_ref=f"upstream:{tarball.name}",
        version=source.origin.upstream_version,
        hashes=_hash(tarball.sha256),
        external_references=where if source.address else (),
    )


@lru_cache(maxsize=256)
def _dependency(one: Dependency) -> Component:
    return Component(
        name=one.name,
        type=ComponentType.LIBRARY,
        bom_ref=one.purl.to_string(),
        version=one.purl.version,
        scope=ComponentScope.REQUIRED if one.needed else ComponentScope.OPTIONAL,
        purl=one.purl,
        properties=[Property(name=f"{AUTHOR}:{one.field}", value=one.clause)],
    )


def _file(name: str, sha256: str) -> Component:
    return Component(name=name, type=ComponentType.FILE, bom_ref=f"file:{name}", hashes=_hash(sha256))


def _hash(sha256: str) -> list[HashType]:
    return [HashType(alg=HashAlgorithm.SHA_256, content=sha256)] if sha256 else []


def _licences(source: Source) -> list[LicenseExpression]:
    expression = source.licences.expression
    declared = LicenseAcknowledgement.DECLARED
    return [] if expression is None else [LicenseExpression(str(expression), acknowledgement=declared)]


def _supplier(maintainer: str) -> OrganizationalEntity | None:
    found = _PERSON.fullmatch(maintainer)
    if found is None or not found["name"]:
        return None
    contacts = [OrganizationalContact(email=found["mail"])] if found["mail"] else None
    return OrganizationalEntity(name=found["name"], contacts=contacts)
