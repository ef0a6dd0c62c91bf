"""The walk from a .deb to upstream's tarball prints every link and names a broken one."""

from __future__ import annotations

import io
import json
import lzma
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.upstream.tarballs import CHECKOUT, loaded

from pgpool_deb.ground.errors import ExitStatus
from pgpool_deb.ground.project import Project
from pgpool_deb.repository import provenance
from pgpool_deb.repository.bill import source_of
from pgpool_deb.runs import rebuild
from pgpool_deb.runs.small_packages import upload
from pgpool_deb.runs.walk import Link, links
from pgpool_deb.upstream.download import sha256_of
from pgpool_deb.upstream.pins import Pins

VERSION = "4.7.2-50+deb13+1"
STEM = f"pgpool2_{VERSION}"
ORIG = "pgpool2_4.7.2.orig.tar.gz"
DEB = f"{STEM}_amd64.deb"
ROW = '[pgpool."{version}"]\nsha256 = "{sha256}"\nsize = 1\ndate = 2026-06-04'
HEAD = 'addresses = ["https://example.org/{version}.tar.gz"]\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a package with upstream's tarball, and the statement beside it."""
    place = tmp_path / "pool"
    upload(place, VERSION, upstream=True)
    (record,) = rebuild.records(place)
    text = provenance.statement(record, source_of(record, "trixie", pins_of(place)), "trixie")
    (place / f"{STEM}_amd64.intoto.json").write_text(provenance.text(text))
    return place


def pins_of(folder: Path) -> Pins:
    return loaded(folder.parent, HEAD + ROW.format(version="4.7.2", sha256=sha256_of(folder / ORIG)))


def walked(folder: Path, pins: Pins) -> list[Link]:
    (record,) = rebuild.records(folder)
    return list(links(record, [DEB], pins))


def test_each_link_is_reported_with_its_hash(folder: Path) -> None:
    result = walked(folder, pins_of(folder))
    assert all(link.holds for link in result)
    sums = {name: sha256_of(folder / name) for name in (DEB, f"{STEM}.dsc", ORIG, f"{STEM}.debian.tar.xz")}
    assert [link.text.split(": ")[0] for link in result[:4]] == [f"{name} {sha256}" for name, sha256 in sums.items()]
    text = "\n".join(link.text for link in result[4:])
    assert f"{ORIG} is upstream's release 4.7.2 of 2026-06-04, as pinned; https://example.org/4.7.2.tar.gz" in text
    assert re.search(r"^debian/patches/one.patch [0-9a-f]{64}: in pgpool2_.*debian.tar.xz$", text, re.MULTILINE)
    assert "intoto.json has the same hashes of all these files" in text


def test_missing_documents_are_not_a_fault(folder: Path) -> None:
    other_document(folder)
    (folder / f"{STEM}_amd64.cdx.json").unlink()
    assert all(link.holds for link in walked(folder, pins_of(folder)))


def changed(name: str) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        path = folder / name
        path.write_bytes(path.read_bytes() + b"x")

    return harm


def no_tarball(folder: Path) -> None:
    (folder / ORIG).unlink()


def no_patch(folder: Path) -> None:
    """Replace the tarball, with its hash in the .dsc, by one whose series names a missing patch."""
    tar = folder / f"{STEM}.debian.tar.xz"
    before, packed = sha256_of(tar), io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as made:
        for name, data in {"debian/patches/series": b"one.patch\ntwo.patch\n", "debian/patches/one.patch": b""}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            made.addfile(member, io.BytesIO(data))
    tar.write_bytes(lzma.compress(packed.getvalue()))
    dsc, info = folder / f"{STEM}.dsc", folder / f"{STEM}_amd64.buildinfo"
    old = sha256_of(dsc)
    dsc.write_text(dsc.read_text().replace(before, sha256_of(tar)))
    info.write_text(info.read_text().replace(old, sha256_of(dsc)))


def other_statement(folder: Path) -> None:
    path = folder / f"{STEM}_amd64.intoto.json"
    path.write_text(path.read_text().replace(sha256_of(folder / ORIG), "0" * 64))


def no_statement(folder: Path) -> None:
    (folder / f"{STEM}_amd64.intoto.json").write_text("{}")


def other_document(folder: Path) -> None:
    path = folder / f"{STEM}_amd64.intoto.json"
    statement = json.loads(path.read_text())
    statement["predicate"]["runDetails"]["byproducts"].append(
        {"name": f"{STEM}_amd64.cdx.json", "digest": {"sha256": "0"}}
    )
    path.write_text(json.dumps(statement))
    (folder / f"{STEM}_amd64.cdx.json").write_text("{}")


@pytest.mark.parametrize(
    ("harm", "message", "of_source"),
    [
        (changed(DEB), rf"^{re.escape(DEB)} \w+: .*buildinfo has \w+$", False),
        (changed(f"{STEM}.dsc"), r"\.dsc \w+: .*buildinfo has \w+$", True),
        (changed(ORIG), rf"^{ORIG} \w+: .*\.dsc has \w+$", True),
        (changed(f"{STEM}.debian.tar.xz"), r"debian\.tar\.xz \w+: .*\.dsc has \w+$", True),
        (no_tarball, rf"^{ORIG} is missing, but listed in .*\.dsc$", True),
        (no_patch, r"^debian/patches/two\.patch is not in .*, although its series lists it$", False),
        (other_statement, rf"intoto\.json has a different hash of {ORIG}$", False),
        (no_statement, r"intoto\.json is not a valid statement", False),
        (other_document, r"\.cdx\.json \w+: .*intoto\.json has 0$", False),
    ],
)
def test_a_broken_link_is_named(folder: Path, harm: Callable[[Path], None], message: str, of_source: bool) -> None:
    pins = pins_of(folder)
    harm(folder)
    broken = [link for link in walked(folder, pins) if not link.holds]
    assert re.search(message, broken[0].text), broken
    assert broken[0].of_source is of_source


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("4.7.2", rf"^{ORIG} \w+: sources\.toml pins 0+ for 4\.7\.2$"),
        ("4.6.1", rf"^{ORIG}: sources\.toml pins no release 4\.7\.2 of pgpool-II$"),
    ],
)
def test_a_tarball_that_is_not_the_pinned_one_is_named(folder: Path, version: str, message: str) -> None:
    pins = loaded(folder.parent, HEAD + ROW.format(version=version, sha256="0" * 64))
    (broken,) = [link for link in walked(folder, pins) if not link.holds]
    assert re.search(message, broken.text)
    assert not broken.of_source


def test_a_package_of_our_own_has_no_upstream(tmp_path: Path) -> None:
    upload(tmp_path, "0.2.0+deb13+1", source="pgpool2-cluster")
    (record,) = rebuild.records(tmp_path)
    result = list(
        links(
            record,
            ["pgpool2-cluster_0.2.0+deb13+1_all.deb"],
            loaded(tmp_path, HEAD + ROW.format(version="4.7.2", sha256="0" * 64)),
        )
    )
    assert all(link.holds for link in result)
    assert any("this native package has no upstream tarball" in link.text for link in result)


def test_verify_fails_for_a_broken_link_and_does_not_rebuild_a_broken_source(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPOOL_DEB_SOURCES", str(pins_of(folder).path))
    changed(ORIG)(folder)
    assert rebuild.run(Project(CHECKOUT), folder / DEB, install=False) is ExitStatus.FAILED
    text = capsys.readouterr().out
    assert f"fault: {ORIG}" in text
    assert "rebuilding for" not in text
