"""Render a bill of materials as CycloneDX 1.6 JSON. Pure; tests validate every document against the format's schema.

The .deb is the subject of the document. Its pedigree leads to the source package, and from there with our patches to
upstream's tarball. Dependencies are components without a version, because debian/control does not fix one.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from .bill import AUTHOR, Bill, BilledSource, Dependency, person

CycloneDxElement = dict[str, Any]
_OF_ADDRESSES = "%/:?#@!$&()*+,;=~"
"""The characters that an address may contain besides letters and digits."""


def text(bill: Bill) -> str:
    """Return the document; the same bill gives the same bytes."""
    dependencies = sorted(bill.dependencies, key=lambda one: one.name)
    named = sorted(one.purl for one in dependencies)
    edges = [{"ref": purl} for purl in named]
    edges.append(_told(ref=bill.purl, dependsOn=named))
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{bill.identity}",
        "version": 1,
        "metadata": {
            "timestamp": bill.built.isoformat(),
            "tools": {"components": [_component(AUTHOR, "application", AUTHOR)]},
            "component": _package(bill),
        },
        **_told(components=[_dependency(one) for one in dependencies]),
        "dependencies": edges,
    }
    return json.dumps(document) + "\n"


def _told(**values: object) -> CycloneDxElement:
    """Return the non-empty values: the schema allows no empty ones."""
    return {name: value for name, value in values.items() if value}


def _component(name: str, kind: str, reference: str, **more: object) -> CycloneDxElement:
    return {"bom-ref": reference, "type": kind, "name": name, **_told(**more)}


def _package(bill: Bill) -> CycloneDxElement:
    references = [_reference("build-meta", bill.buildinfo.name, bill.buildinfo.sha256)]
    if bill.homepage:
        references.append(_reference("website", bill.homepage))
    return _component(
        bill.name,
        "application",
        bill.purl,
        version=bill.version,
        supplier=_supplier(bill.maintainer),
        description=bill.summary,
        hashes=_hash(bill.file.sha256),
        licenses=_licences(bill.source),
        copyright="\n".join(bill.source.licences.holders),
        purl=bill.purl,
        externalReferences=references,
        pedigree={"ancestors": [_source(bill.source)]},
    )


@lru_cache(maxsize=4)
def _source(source: BilledSource) -> CycloneDxElement:
    """Return the source package with its files and its pedigree; cached, as all of its .debs share it."""
    files = sorted((one.name, one.sha256) for one in source.origin.archives)
    return _component(
        source.name,
        "application",
        source.purl,
        version=source.version,
        hashes=_hash(source.dsc.sha256),
        licenses=_licences(source),
        purl=source.purl,
        externalReferences=[_reference("source-distribution", source.dsc.name, source.dsc.sha256)],
        components=[_component(name, "file", f"file:{name}", hashes=_hash(sha256)) for name, sha256 in files],
        pedigree=_pedigree(source),
    )


def _pedigree(source: BilledSource) -> CycloneDxElement:
    """Return upstream's tarball and our patches to it; empty for a native package."""
    tarball, archive = source.origin.upstream, source.origin.packaging.name
    if tarball is None:
        return {}
    where = [_reference("source-distribution", source.address, tarball.sha256)] if source.address else []
    upstream = _component(
        source.name,
        "application",
        f"upstream:{tarball.name}",
        version=source.origin.upstream_version,
        hashes=_hash(tarball.sha256),
        externalReferences=where,
    )
    addresses = sorted(_address(f"{archive}#{one.path}") for one in source.debian.patches)
    patches = [{"type": "unofficial", "diff": {"url": address}} for address in addresses]
    return _told(ancestors=[upstream], patches=patches)


@lru_cache(maxsize=256)
def _dependency(one: Dependency) -> CycloneDxElement:
    return _component(
        one.name,
        "library",
        one.purl,
        version=one.version,
        scope="required" if one.needed else "optional",
        purl=one.purl,
        properties=[{"name": f"{AUTHOR}:{one.field}", "value": one.clause}],
    )


def _reference(kind: str, address: str, sha256: str = "") -> CycloneDxElement:
    return {"type": kind, "url": _address(address), **_told(hashes=_hash(sha256))}


def _address(text: str) -> str:
    return quote(text, safe=_OF_ADDRESSES)


def _hash(sha256: str) -> list[CycloneDxElement]:
    return [{"alg": "SHA-256", "content": sha256}] if sha256 else []


def _licences(source: BilledSource) -> list[CycloneDxElement]:
    expression = source.licences.expression
    return [] if expression is None else [{"acknowledgement": "declared", "expression": expression}]


def _supplier(maintainer: str) -> CycloneDxElement:
    name, mail = person(maintainer)
    return {"name": name, **_told(contact=[{"email": mail}] if mail else [])} if name else {}
