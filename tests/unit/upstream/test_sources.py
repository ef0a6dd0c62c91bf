"""Pinned sources and the default version, downloaded from a real server."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from debian.debian_support import Version
from tests.serving import serving
from tests.unit.upstream.tarballs import CHECKOUT, DAY, QUICK, loaded, pooled, quiet, release

from pgpool_deb.ground.errors import MachineError, UsageError
from pgpool_deb.upstream import download
from pgpool_deb.upstream.download import Availability, Probe
from pgpool_deb.upstream.pins import Pins


class Mirror(ThreadingHTTPServer):
    """A Debian mirror that has some versions and counts its requests."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Pool)
        self.folder = folder
        self.asked: list[str] = []
        self.broken = False

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/debian"


class Pool(BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        path = self.server.folder / Path(self.path).name
        body = path.read_bytes() if path.exists() else b""
        self.send_response(503 if self.server.broken else 200 if body else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Keep the tests' output clean."""


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(Mirror(tmp_path / "pool")) as server:
        yield server


# --- sources.toml


def test_the_projects_own_file_is_valid() -> None:
    pins = Pins.load(CHECKOUT / "packaging" / "sources.toml")
    assert {"4.3.5", "4.6.1", "4.7.3"} <= {pin.version for pin in pins.pins}
    assert [pin.version for pin in pins.pins] == sorted((pin.version for pin in pins.pins), key=Version, reverse=True)
    assert "CVE-2026-92867" in {cve for advisory in pins.advisories("4.6.1") for cve in advisory.cves}
    assert pins.advisories("4.7.3") == ()
    for advisory in pins.known:
        pins.named(advisory.fixed_in)


def test_pins_are_frozen_and_newest_first(pins: Pins) -> None:
    assert [pin.version for pin in pins.pins] == ["4.10.0", "4.7.3", "4.6.1", "4.3.5"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        pins.pins = ()  # type: ignore[misc]


GOOD = f"""
addresses = ["{{mirror}}/{{version}}"]
[pgpool."4.6.1"]
sha256 = "{"0" * 64}"
size = 1
date = 2025-06-01
[[advisory]]
cves = ["CVE-2026-9999"]
summary = "s"
fixed_in = "4.7.3"
backports = ["4.6.6"]
"""


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("size = 1", "size = 0", "pgpool.4.6.1.size"),
        ("size = 1", 'size = "much"', "pgpool.4.6.1.size"),
        ("size = 1", "size = 1\nbytes = 1", "pgpool.4.6.1.bytes"),
        ("size = 1\n", "", "pgpool.4.6.1.size"),
        ('"000', '"00', "pgpool.4.6.1.sha256"),
        ('"000', '"xyz', "pgpool.4.6.1.sha256"),
        ("date = 2025-06-01", "date = 2025-06-31", "line 6"),
        ("date = 2025-06-01", 'date = "soon"', "pgpool.4.6.1.date"),
        ('"4.6.1"]\nsha', '"4.6/../1"]\nsha', "pgpool.4.6/../1"),
        ("{mirror}/{version}", "{mirror}/{name}", "addresses.0"),
        ("{mirror}/{version}", "/{version}", "addresses.0"),
        ("{mirror}/{version}", "{mirror}/{version", "addresses.0"),
        ("CVE-2026-9999", "9999", "advisory.0.cves.0"),
        ("fixed_in", "mended_in", "advisory.0.fixed_in"),
        ('"4.6.6"', '"4.6"', "advisory.0.backports.0"),
        ("[[advisory]]", "[[advisories]]", "advisories"),
    ],
)
def test_an_error_in_the_file_names_its_place(tmp_path: Path, old: str, new: str, place: str) -> None:
    assert old in GOOD
    with pytest.raises(UsageError) as caught:
        loaded(tmp_path, GOOD.replace(old, new, 1))
    assert str(tmp_path / "sources.toml") in caught.value.message
    assert place in caught.value.message
    assert "\n" not in caught.value.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.toml cannot be read"):
        Pins.load(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("version", "affected"),
    [
        ("4.3.5", True),
        ("4.3.5+git20250601.0a1b2c3d", True),
        ("4.3.5+local20250601.0a1b2c3d", True),
        ("4.3.7", True),
        ("4.4.2", True),
        ("4.5.2", True),
        ("4.6.0", True),
        ("4.6.1~rc1", True),
        ("4.7.2", True),
        ("4.7.0~rc1", True),
        ("4.7.3~rc1", True),
        ("4.7.3", False),
        ("4.7.3+git20250601.0a1b2c3d", False),
        ("4.10.0", False),
        ("4.6.1", False),
        ("4.6.2", False),
    ],
)
def test_advisories_concern_all_versions_before_the_fix_except_fixed_branches(
    pins: Pins, version: str, affected: bool
) -> None:
    assert bool(pins.advisories(version)) == affected


# --- a pinned version


def test_a_pinned_version_is_downloaded_once_and_verified(pins: Pins, mirror: Mirror, tmp_path: Path) -> None:
    one = pins.obtain("4.6.1", mirror.uri + "/", tmp_path / "cache", quiet)
    two = pins.obtain("4.6.1", mirror.uri, tmp_path / "cache", quiet)
    assert mirror.asked == ["/debian/pool/pgpool2_4.6.1.orig.tar.gz"]
    assert one == two
    assert one.tarball.read_bytes() == pooled(tmp_path, "4.6.1").read_bytes()
    assert one.sha256 == hashlib.sha256(one.tarball.read_bytes()).hexdigest()
    assert (one.version, one.pinned, one.needs_autoreconf) == ("4.6.1", True, False)
    assert one.orig_name == "pgpool2_4.6.1.orig.tar.gz"
    assert one.date == DAY + 12 * 3600


def test_a_damaged_tarball_in_the_cache_is_downloaded_again(pins: Pins, mirror: Mirror, tmp_path: Path) -> None:
    source = pins.obtain("4.6.1", mirror.uri, tmp_path / "cache", quiet)
    source.tarball.write_bytes(source.tarball.read_bytes()[:-1] + b"x")
    assert pins.obtain("4.6.1", mirror.uri, tmp_path / "cache", quiet) == source
    assert source.tarball.read_bytes() == pooled(tmp_path, "4.6.1").read_bytes()


def test_an_unpinned_version_lists_the_pinned_ones(pins: Pins, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        pins.obtain("4.9.9", "http://127.0.0.1:1", tmp_path / "cache", quiet)
    assert "4.9.9" in caught.value.message
    assert "4.10.0, 4.7.3, 4.6.1, 4.3.5" in caught.value.hint


def test_another_file_at_an_address_is_the_machines_fault(pins: Pins, mirror: Mirror, tmp_path: Path) -> None:
    release(pooled(tmp_path, "4.6.1"), "6.6.6")
    with pytest.raises(MachineError, match="expected sha256"):
        pins.obtain("4.6.1", mirror.uri, tmp_path / "cache", quiet, patience=QUICK)
    assert not list((tmp_path / "cache").glob("*.orig.tar.gz"))


def test_a_pinned_tarball_with_an_entry_outside_is_refused(mirror: Mirror, tmp_path: Path) -> None:
    bad = release(tmp_path / "pool" / "4.6.1", "4.6.1", top="../..")
    sha256 = hashlib.sha256(bad.read_bytes()).hexdigest()
    text = GOOD.replace("0" * 64, sha256).replace("size = 1", f"size = {bad.stat().st_size}")
    with pytest.raises(MachineError, match=r"contains '\.\.'"):
        loaded(tmp_path, text).obtain("4.6.1", mirror.uri, tmp_path / "cache", quiet, patience=QUICK)


# --- the default version


@dataclasses.dataclass
class Asking:
    pins: Pins
    uri: str
    cache: Path
    lines: list[str] = dataclasses.field(default_factory=list)

    def __call__(self, *, ask_again: bool = False) -> str:
        return self.pins.default_version(self.uri, self.cache, self.lines.append, ask_again=ask_again, patience=QUICK)


@pytest.fixture
def asking(pins: Pins, mirror: Mirror, tmp_path: Path) -> Asking:
    return Asking(pins, mirror.uri, tmp_path / "cache")


def lacks(tmp_path: Path, *versions: str) -> None:
    for version in versions:
        pooled(tmp_path, version).unlink()


def test_the_default_is_the_newest_available_version(asking: Asking, tmp_path: Path) -> None:
    assert asking() == "4.10.0"
    lacks(tmp_path, "4.10.0", "4.7.3")
    assert asking() == "4.6.1"
    assert asking.lines == [
        "skipping pgpool-II 4.10.0: no address provides it",
        "skipping pgpool-II 4.7.3: no address provides it",
    ]


def test_an_unchanged_run_asks_no_address(asking: Asking, mirror: Mirror, tmp_path: Path) -> None:
    lacks(tmp_path, "4.10.0")
    assert asking() == "4.7.3"
    asking.pins.obtain("4.7.3", mirror.uri, asking.cache, quiet)
    mirror.asked.clear()
    assert asking() == "4.7.3"
    assert mirror.asked == []


def test_an_absence_is_forgotten_after_a_day_or_on_request(
    asking: Asking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacks(tmp_path, "4.10.0")
    assert asking() == "4.7.3"
    release(pooled(tmp_path, "4.10.0"), "4.10.0")
    assert asking() == "4.7.3"
    with monkeypatch.context() as patch:
        patch.setattr("pgpool_deb.upstream.pins.ASK_AGAIN_SECONDS", 0)
        assert asking() == "4.10.0"
    lacks(tmp_path, "4.10.0")
    assert asking(ask_again=True) == "4.7.3"
    release(pooled(tmp_path, "4.10.0"), "4.10.0")
    assert asking(ask_again=True) == "4.10.0"
    assert asking() == "4.10.0"


def test_an_absence_holds_for_one_mirror_only(asking: Asking, mirror: Mirror, tmp_path: Path) -> None:
    lacks(tmp_path, "4.10.0")
    asking()
    release(pooled(tmp_path, "4.10.0"), "4.10.0")
    other = dataclasses.replace(asking, uri=mirror.uri.replace("/debian", "/other"))
    assert other() == "4.10.0"


@pytest.mark.parametrize("damage", ["", "[]", "{", '{"x": "y"}'])
def test_a_damaged_memory_is_ignored(asking: Asking, tmp_path: Path, damage: str) -> None:
    lacks(tmp_path, "4.10.0")
    asking.cache.mkdir()
    (asking.cache / "absent.json").write_text(damage)
    assert asking() == "4.7.3"


def test_without_a_network_the_newest_version_in_the_cache_is_used(asking: Asking, mirror: Mirror) -> None:
    asking.pins.obtain("4.6.1", mirror.uri, asking.cache, quiet)
    mirror.broken = True
    assert asking() == "4.6.1"
    assert re.fullmatch(
        r"skipping pgpool-II 4\.10\.0: no address answers \(http\S+/pgpool2_4\.10\.0\S+: 503.*\)", asking.lines[0]
    )
    mirror.broken = False
    assert asking() == "4.10.0"  # silence is not remembered


def test_without_network_and_cache_the_environment_failed(asking: Asking, mirror: Mirror) -> None:
    mirror.broken = True
    with pytest.raises(MachineError, match=r"none of the pinned versions can be downloaded \(4\.10\.0, 4\.7\.3"):
        asking()


# --- versions that the default never falls back to


def with_proved(asking: Asking, *versions: str) -> Asking:
    marked = (dataclasses.replace(pin, proved=() if pin.version in versions else None) for pin in asking.pins.pins)
    return dataclasses.replace(asking, pins=dataclasses.replace(asking.pins, pins=tuple(marked)))


def test_the_default_is_the_newest_proved_version(asking: Asking) -> None:
    assert with_proved(asking, "4.6.1", "4.3.5")() == "4.6.1"


@pytest.mark.parametrize("silent", [False, True])
def test_the_default_never_falls_back_into_an_advisory(
    asking: Asking, mirror: Mirror, tmp_path: Path, silent: bool
) -> None:
    """Otherwise an attacker who blocks an address chooses the version that is built."""
    asking = with_proved(asking, "4.6.1", "4.3.5")
    asking.pins.obtain("4.3.5", mirror.uri, asking.cache, quiet)
    lacks(tmp_path, "4.6.1")
    mirror.broken = silent
    with pytest.raises(
        MachineError, match=r"^pgpool-II 4\.6\.1 is unavailable \(.*\), and 4\.3\.5 lacks its fix for CVE-2026-9999"
    ) as e:
        asking()
    assert "--pgpool 4.3.5 builds 4.3.5 anyway" in e.value.hint


def test_the_default_falls_back_to_a_version_without_more_advisories(asking: Asking, tmp_path: Path) -> None:
    lacks(tmp_path, "4.10.0")
    assert with_proved(asking, "4.10.0", "4.7.3")() == "4.7.3"


def test_a_named_default_is_used(pins: Pins, tmp_path: Path) -> None:
    text = 'default = "4.3.5"\n' + pins.path.read_text()
    assert loaded(tmp_path, text).default_version("http://nowhere.invalid", tmp_path / "cache", quiet) == "4.3.5"


def test_a_mirror_whose_authority_is_unknown_is_named_with_the_package_to_install(
    asking: Asking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = Probe(Availability.SILENT, download.CERTIFICATE_REFUSED)
    monkeypatch.setattr("pgpool_deb.upstream.download.probe", lambda *_: refused)
    with pytest.raises(MachineError) as failure:
        asking()
    assert "its certificate is not accepted" in asking.lines[0]
    assert (failure.value.hint or "").startswith("apt-get install ca-certificates, or let REQUESTS_CA_BUNDLE")
