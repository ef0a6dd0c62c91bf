"""Bills of materials: their contents, that they are reproducible, and that the formats' own libraries accept them.

The toolkit writes the documents without these libraries. Here, the libraries read, validate and rewrite each of them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.model.bom import Bom
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from debian.debfile import DebFile
from spdx_tools.spdx.jsonschema.document_converter import DocumentConverter
from spdx_tools.spdx.parser.jsonlikedict.json_like_dict_parser import JsonLikeDictParser
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document
from tests.unit.repository.conftest import V1, V2, Publisher
from tests.unit.upstream.tarballs import loaded

from pgpool_deb.builds.record import BuildRecord
from pgpool_deb.ground.errors import UsageError
from pgpool_deb.ground.project import Project
from pgpool_deb.repository import cyclonedx_bill, spdx_bill
from pgpool_deb.repository.bill import Bill, Dependency, bills, source_of
from pgpool_deb.repository.licences import declared
from pgpool_deb.repository.stanzas import PoolFile
from pgpool_deb.runs.small_packages import upload
from pgpool_deb.upstream.download import sha256_of
from pgpool_deb.upstream.pins import Pins

PACKAGING = Path(__file__).parents[3] / "packaging"
ORIG = "pgpool2_4.7.2.orig.tar.gz"
EXPRESSION = "GPL-3.0-or-later WITH Bison-exception-2.2 AND LicenseRef-small AND PostgreSQL"


def bills_of(folder: Path, pins: Pins) -> list[Bill]:
    (path,) = folder.glob("*.buildinfo")
    record = BuildRecord.read(path)
    files = [PoolFile(name, sha256, 0) for name, sha256 in {**record.sums, path.name: sha256_of(path)}.items()]
    controls = {name: control(folder / name) for name in record.sums if name.endswith(".deb")}
    return list(bills(record, source_of(record, "trixie", pins), files, controls, "trixie"))


def control(path: Path) -> dict[str, str]:
    with DebFile(path) as deb:
        return dict(deb.debcontrol())


@pytest.fixture
def built(tmp_path: Path) -> Path:
    upload(tmp_path / "built", V1, binaries=("pgpool2", "pgpool2-common"), upstream=True)
    return tmp_path / "built"


@pytest.fixture
def pinned(built: Path, tmp_path: Path) -> Pins:
    """Pins with upstream's tarball of the package."""
    tarball = built / ORIG
    row = f'[pgpool."4.7.2"]\nsha256 = "{sha256_of(tarball)}"\nsize = {tarball.stat().st_size}\ndate = 2026-06-04'
    return loaded(tmp_path, f'addresses = ["https://example.org/{{version}}.tar.gz"]\n{row}')


@pytest.fixture
def cyclonedx(built: Path, pinned: Pins) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cyclonedx_bill.text(bills_of(built, pinned)[-1]))
    return found


@pytest.fixture
def spdx(built: Path, pinned: Pins) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(spdx_bill.text(bills_of(built, pinned)[-1]))
    return found


def native(folder: Path) -> Path:
    upload(folder, "0.2.0+deb13+1", source="pgpool2-cluster")
    return folder


@pytest.fixture
def all_bills(built: Path, pinned: Pins, tmp_path: Path) -> list[Bill]:
    """Bills with and without an upstream, and bills with all optional fields and with none."""
    found = [*bills_of(built, pinned), *bills_of(native(tmp_path / "native"), pinned)]
    recommended = Dependency("other", "Recommends", "other (>= 1) [linux-any]", "pkg:deb/debian/other", "")
    full = replace(found[0], homepage="https://example.org/a b?c=[d]", maintainer="Jörg O'Neil <j@example.org>")
    bare = replace(found[0], homepage="", maintainer="", summary="", dependencies=())
    nameless = replace(found[0], source=replace(found[0].source, licences=declared("")))
    return [*found, replace(full, dependencies=(*full.dependencies[:2], recommended)), bare, nameless]


def test_the_validators_of_the_formats_accept_the_documents(all_bills: list[Bill]) -> None:
    for bill in all_bills:
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(cyclonedx_bill.text(bill)) is None
        document = JsonLikeDictParser().parse(json.loads(spdx_bill.text(bill)))  # type: ignore[no-untyped-call]
        assert validate_full_spdx_document(document) == []


def test_the_validators_reject_bad_documents(built: Path, pinned: Pins) -> None:
    bill = bills_of(built, pinned)[0]
    bad = cyclonedx_bill.text(bill).replace('"type": "application"', '"type": "a program"', 1)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bad) is not None
    document = JsonLikeDictParser().parse(json.loads(spdx_bill.text(bill)))  # type: ignore[no-untyped-call]
    document.creation_info.document_namespace = "nowhere"
    assert validate_full_spdx_document(document)


def test_cyclonedx_python_lib_reads_a_document_and_writes_the_same(all_bills: list[Bill]) -> None:
    for bill in all_bills:
        ours = json.loads(cyclonedx_bill.text(bill))
        theirs = json.loads(JsonV1Dot6(Bom.from_json(ours)).output_as_string())  # type: ignore[attr-defined]
        assert ordered(ours) == ordered(theirs)


def test_spdx_tools_reads_a_document_and_writes_the_same(all_bills: list[Bill]) -> None:
    converter = DocumentConverter()  # type: ignore[no-untyped-call]
    for bill in all_bills:
        ours = json.loads(spdx_bill.text(bill))
        assert converter.convert(JsonLikeDictParser().parse(ours)) == ours  # type: ignore[no-untyped-call]


def ordered(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document with its edges sorted: the format does not define their order."""
    return {**document, "dependencies": sorted(document["dependencies"], key=lambda edge: str(edge["ref"]))}


def test_cyclonedx_leads_from_the_deb_to_upstreams_tarball(cyclonedx: dict[str, Any], built: Path) -> None:
    about = cyclonedx["metadata"]["component"]
    assert (about["name"], about["version"], about["supplier"]["name"]) == ("pgpool2", V1, "A Test")
    assert about["hashes"] == [{"alg": "SHA-256", "content": sha256_of(built / f"pgpool2_{V1}_amd64.deb")}]
    assert about["licenses"] == [{"acknowledgement": "declared", "expression": EXPRESSION}]
    (source,) = about["pedigree"]["ancestors"]
    assert source["hashes"][0]["content"] == sha256_of(built / f"pgpool2_{V1}.dsc")
    assert {one["name"]: one["hashes"][0]["content"] for one in source["components"]} == {
        name: sha256_of(built / name) for name in (ORIG, f"pgpool2_{V1}.debian.tar.xz")
    }
    (patch,) = source["pedigree"]["patches"]
    assert patch["diff"]["url"] == f"pgpool2_{V1}.debian.tar.xz#debian/patches/one.patch"
    (upstream,) = source["pedigree"]["ancestors"]
    assert upstream["version"] == "4.7.2"
    assert upstream["hashes"][0]["content"] == sha256_of(built / ORIG)
    assert upstream["externalReferences"][0]["url"] == "https://example.org/4.7.2.tar.gz"


def test_cyclonedx_lists_the_declared_dependencies(cyclonedx: dict[str, Any]) -> None:
    found = {one["name"]: (one["scope"], one["purl"], one["properties"][0]) for one in cyclonedx["components"]}
    assert set(found) == {"libc6", "libpq5", "pgpool2-common", "other"}
    clause = {"name": "pgpool-deb:Depends", "value": "libc6 (>= 2.36)"}
    assert found["libc6"] == ("required", "pkg:deb/debian/libc6?distro=trixie", clause)
    assert found["pgpool2-common"][1].startswith("pkg:deb/pgpool-deb/pgpool2-common@4.7.2-50%2Bdeb13%2B1?arch=amd64")
    assert found["other"][2]["value"] == "pgpool2-common | other"


def test_spdx_leads_from_the_deb_to_upstreams_tarball(spdx: dict[str, Any], built: Path) -> None:
    packages = {one["SPDXID"]: one for one in spdx["packages"]}
    about, upstream = packages["SPDXRef-Package"], packages["SPDXRef-Upstream"]
    assert about["supplier"] == "Organization: A Test (test@example.org)"
    assert about["licenseDeclared"] == EXPRESSION
    assert about["copyrightText"] == "2026 A Test\n1984 Another"
    assert about["checksums"][0]["checksumValue"] == sha256_of(built / f"pgpool2_{V1}_amd64.deb")
    assert upstream["downloadLocation"] == "https://example.org/4.7.2.tar.gz"
    assert upstream["checksums"][0]["checksumValue"] == sha256_of(built / ORIG)
    assert spdx["hasExtractedLicensingInfos"][0]["extractedText"] == "Do as you like."
    assert spdx["files"][0]["fileName"] == "./debian/patches/one.patch"
    found = {
        (one["spdxElementId"].removeprefix("SPDXRef-"), one["relationshipType"], one["relatedSpdxElement"][8:])
        for one in spdx["relationships"]
    }
    assert {
        ("DOCUMENT", "DESCRIBES", "Package"),
        ("Package", "GENERATED_FROM", "Source"),
        ("Package", "GENERATED_FROM", "Upstream"),
        ("Source", "DESCENDANT_OF", "Upstream"),
        ("Patch-0", "PATCH_APPLIED", "Upstream"),
        ("Package", "DEPENDS_ON", "Dependency-0"),
    } <= found


PRINTED = """
import sys
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
from pgpool_deb.upstream.pins import Pins
from pgpool_deb.repository import cyclonedx_bill, spdx_bill
from tests.unit.repository.test_bills import bills_of
for bill in bills_of(Path(sys.argv[3]), Pins.load(Path(sys.argv[4]))):
    print(cyclonedx_bill.text(bill), spdx_bill.text(bill))
"""


def test_the_same_package_has_the_same_documents_in_every_process(built: Path, pinned: Pins) -> None:
    words = [sys.executable, "-c", PRINTED, str(PACKAGING), str(PACKAGING.parent), str(built), str(pinned.path)]
    seeds = [{"PYTHONHASHSEED": "1", "TZ": "Pacific/Auckland"}, {"PYTHONHASHSEED": "2", "TZ": "UTC"}]
    one, other = (subprocess.run(words, env=seed, capture_output=True, check=True).stdout for seed in seeds)
    assert one == other
    assert b"2026-11-30T01:48:13" in one


def test_another_build_has_documents_with_another_identity(built: Path, pinned: Pins) -> None:
    first, second = bills_of(built, pinned)
    (info,) = built.glob("*.buildinfo")
    info.write_text(info.read_text().replace("01:48:13", "01:48:14"))
    assert len({first.identity, second.identity, bills_of(built, pinned)[0].identity}) == 3


def test_a_tarball_that_differs_from_the_pinned_one_has_no_address(built: Path, tmp_path: Path) -> None:
    text = (
        f'addresses = ["https://example.org/x"]\n[pgpool."4.7.2"]\nsha256 = "{"0" * 64}"\nsize = 1\ndate = 2026-06-04'
    )
    pins = loaded(tmp_path, text)
    assert "https://example.org" not in spdx_bill.text(bills_of(built, pins)[0])


@pytest.mark.parametrize(
    ("names", "expression"),
    [
        ("GPL-2+", "GPL-2.0-or-later"),
        ("LGPL-2.1", "LGPL-2.1-only"),
        ("BSD-3-clause or X11", "BSD-3-Clause OR X11"),
        ("GPL-2+ with Autoconf exception", "GPL-2.0-or-later WITH Autoconf-exception-generic"),
        ("GPL-2+ with strange exception", "LicenseRef-GPL-2-with-strange-exception"),
        ("ours (1)", "LicenseRef-ours-1-"),
    ],
)
def test_licences_get_their_spdx_names(names: str, expression: str) -> None:
    head = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\n"
    found = declared(f"{head}Files: *\nCopyright: 2026 A\nLicense: {names}\n It may be used.\n")
    assert str(found.expression) == expression
    assert [text for _, text in found.texts] == (["It may be used."] if "LicenseRef" in expression else [])


@pytest.mark.parametrize("text", ["", "All rights reserved.\n", "Format: nothing\nFiles *\n"])
def test_an_unparsable_copyright_declares_nothing(text: str) -> None:
    assert declared(text).expression is None


def test_a_damaged_source_package_has_no_bill(built: Path, pinned: Pins) -> None:
    (built / f"pgpool2_{V1}.debian.tar.xz").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="cannot be unpacked"):
        bills_of(built, pinned)


def test_documents_of_every_deb_are_in_the_pool_and_the_signed_statement_names_them(
    published: Publisher, tmp_path: Path
) -> None:
    published()
    folder = tmp_path / "repo/pool/main/p/pgpool2"
    statement = json.loads((folder / f"pgpool2_{V1}_amd64.intoto.json").read_text())
    named = {one["name"]: one["digest"]["sha256"] for one in statement["predicate"]["runDetails"]["byproducts"]}
    expected = {
        f"{package}_{V1}_amd64{suffix}"
        for package in ("pgpool2", "libpgpool-dev")
        for suffix in (".cdx.json", ".spdx.json")
    }
    assert set(named) == {*expected, f"pgpool2_{V1}_amd64.buildinfo"}
    assert all(sha256_of(folder / name) == sha256 for name, sha256 in named.items())
    cluster = tmp_path / "repo/pool/main/p/pgpool2-cluster"
    assert len([path for path in cluster.iterdir() if path.name.endswith((".cdx.json", ".spdx.json"))]) == 2


LOADING = """
import sys
sys.path.insert(0, {packaging!r})
from pathlib import Path
from pgpool_deb.ground.project import Project
from pgpool_deb.repository import publish
request = publish.PublishRequest(Path({repository!r}), unproved=True, install=False)
publish.run(Project(Path({checkout!r})), request, lambda line: None)
print(sorted({{"cyclonedx", "spdx_tools", "license_expression"}} & set(sys.modules)))
"""


def loaded_by_a_publish(checkout: Project, repository: Path) -> str:
    program = LOADING.format(packaging=str(PACKAGING), repository=str(repository), checkout=str(checkout.path))
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def test_a_publish_loads_no_library_of_the_formats(
    published: Publisher, tmp_path: Path, checkout: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    published()
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    assert loaded_by_a_publish(checkout, tmp_path / "repo") == "[]\n"
    upload(checkout.dist / "trixie", V2, binaries=("pgpool2",))
    assert loaded_by_a_publish(checkout, tmp_path / "repo") == "['license_expression']\n"


def test_a_deb_that_cannot_be_read_is_refused(published: Publisher, checkout: Project) -> None:
    changes = upload(checkout.dist / "trixie", V2, binaries=("pgpool2",))
    deb = changes.with_name(f"pgpool2_{V2}_amd64.deb")
    before, size = sha256_of(deb), deb.stat().st_size
    deb.write_bytes(b"x" * size)
    changes.write_text(changes.read_text().replace(before, sha256_of(deb)))
    with pytest.raises(UsageError, match="is not a Debian package"):
        published()
