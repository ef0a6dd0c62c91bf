"""The comparison of contents names each seeded regression of a package; dpkg-deb makes the packages."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pgpool_deb.ground.errors import ExitStatus, UsageError
from pgpool_deb.ground.project import Project
from pgpool_deb.runs import contents

CONTROL = """Package: pgpool2
Version: 4.6.1-50
Architecture: amd64
Section: database
Maintainer: A <a@example.org>
Depends: libc6 (>= 2.38), libpgpool2 (= 4.6.1-50), debconf (>= 0.5) | debconf-2.0
Description: it
"""
SYMBOLS = "libpcp.so.2 libpgpool2 #MINVER#\n* Build-Depends-Package: libpgpool-dev\n pcp_connect@Base 4.3\n"
LIBRARY = "usr/lib/x86_64-linux-gnu/libpcp.so.2"
Seed = Callable[[Path], object]


def tree(place: Path) -> Path:
    """Make the unpacked package that all seeded regressions start from."""
    files = {
        "DEBIAN/control": (CONTROL, 0o644),
        "DEBIAN/conffiles": ("/etc/pgpool2/pcp.conf\n", 0o644),
        "DEBIAN/postinst": ("#!/bin/sh\n", 0o755),
        "DEBIAN/symbols": (SYMBOLS, 0o644),
        "etc/pgpool2/pcp.conf": ("", 0o644),
        "usr/sbin/pgpool": ("", 0o755),
        "usr/share/pgpool2/pgpool.conf": ("#port = 9999\nlisten_addresses = '*'\n# words = none\n", 0o644),
        f"{LIBRARY}.0.0": ("", 0o644),
    }
    for name, (text, mode) in files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
    (place / LIBRARY).symlink_to("libpcp.so.2.0.0")
    return place


def packed(place: Path, name: str = "pgpool2_4.6.1-50_amd64.deb") -> Path:
    deb = place.with_name(name)
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", place, deb], check=True, capture_output=True)
    return deb


def replaced(name: str, old: str, new: str) -> Seed:
    def seed(place: Path) -> None:
        text = (place / name).read_text()
        assert old in text
        (place / name).write_text(text.replace(old, new))

    return seed


def removed(name: str) -> Seed:
    return lambda place: (place / name).unlink()


def relinked(place: Path) -> None:
    (place / LIBRARY).unlink()
    (place / LIBRARY).symlink_to("/opt/libpcp.so.2.0.0")


def bumped(place: Path) -> None:
    replaced("DEBIAN/symbols", "libpcp.so.2", "libpcp.so.3")(place)


def private(place: Path) -> None:
    (place / "etc/pgpool2").chmod(0o700)


SEEDS: dict[str, tuple[Seed, list[str]]] = {
    "a lost file": (removed("usr/sbin/pgpool"), ["- pgpool2 file -755 root:root /usr/sbin/pgpool"]),
    "a new file": (
        lambda place: (place / "usr/sbin/pcp").write_text(""),
        ["+ pgpool2 file -644 root:root /usr/sbin/pcp"],
    ),
    "a changed mode": (
        lambda place: (place / "usr/sbin/pgpool").chmod(0o4755),
        ["- pgpool2 file -755 root:root /usr/sbin/pgpool", "+ pgpool2 file -4755 root:root /usr/sbin/pgpool"],
    ),
    "a folder that only root may read": (private, ["+ pgpool2 file d700 root:root /etc/pgpool2"]),
    "a link that points elsewhere": (
        relinked,
        [
            "- pgpool2 file l root:root /usr/lib/<multiarch>/libpcp.so.2 -> libpcp.so.2.0.0",
            "+ pgpool2 file l root:root /usr/lib/<multiarch>/libpcp.so.2 -> /opt/libpcp.so.2.0.0",
        ],
    ),
    "a new dependency": (replaced("DEBIAN/control", "libc6", "sudo, libc6"), ["+ pgpool2 depends sudo"]),
    "a lost alternative": (
        replaced("DEBIAN/control", " | debconf-2.0", ""),
        ["- pgpool2 depends debconf | debconf-2.0", "+ pgpool2 depends debconf"],
    ),
    "a recommendation": (
        replaced("DEBIAN/control", "Depends:", "Recommends: memcached\nDepends:"),
        ["+ pgpool2 recommends memcached"],
    ),
    "another architecture": (
        replaced("DEBIAN/control", "Architecture: amd64", "Architecture: all"),
        ["- pgpool2 architecture any", "+ pgpool2 architecture all"],
    ),
    "another section": (
        replaced("DEBIAN/control", "database", "misc"),
        ["- pgpool2 section database", "+ pgpool2 section misc"],
    ),
    "a lost maintainer script": (removed("DEBIAN/postinst"), ["- pgpool2 script postinst"]),
    "a lost conffile": (
        removed("DEBIAN/conffiles"),
        ["- pgpool2 conffile /etc/pgpool2/pcp.conf", "- pgpool2 control conffiles"],
    ),
    "a soname bump": (bumped, ["- pgpool2 library libpcp.so.2", "+ pgpool2 library libpcp.so.3"]),
    "a lost symbol": (
        replaced("DEBIAN/symbols", " pcp_connect@Base 4.3\n", ""),
        ["- pgpool2 symbol pcp_connect@Base"],
    ),
    "a parameter that is gone": (
        replaced("usr/share/pgpool2/pgpool.conf", "#port = 9999\n", ""),
        ["- pgpool2 parameter port"],
    ),
    "a new parameter": (
        replaced("usr/share/pgpool2/pgpool.conf", "#port", "#log_line_prefix = ''\n#port"),
        ["+ pgpool2 parameter log_line_prefix"],
    ),
}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seeded_regression_is_reported(tmp_path: Path, seed: str) -> None:
    before = contents.describe([packed(tree(tmp_path / "tree"))])
    plant, expected = SEEDS[seed]
    plant(tmp_path / "tree")
    assert sorted(contents.compare(before, contents.describe([packed(tmp_path / "tree")]))) == sorted(expected)


def test_another_version_and_another_architecture_of_the_machine_make_no_difference(tmp_path: Path) -> None:
    before = contents.describe([packed(tree(tmp_path / "tree"))])
    replaced("DEBIAN/control", "4.6.1-50", "4.6.1-51")(tmp_path / "tree")
    replaced("DEBIAN/control", ">= 2.38", ">= 2.41")(tmp_path / "tree")
    replaced("DEBIAN/control", "amd64", "arm64")(tmp_path / "tree")
    (tmp_path / "tree/usr/lib/x86_64-linux-gnu").rename(tmp_path / "tree/usr/lib/aarch64-linux-gnu")
    assert contents.compare(before, contents.describe([packed(tmp_path / "tree")])) == []


def test_a_missing_package_loses_all_its_lines(tmp_path: Path) -> None:
    before = contents.describe([packed(tree(tmp_path / "tree"))])
    assert contents.compare(before, contents.describe([])) == [f"- {line}" for line in before]


def test_contents_are_compared_and_accepted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = Project(tmp_path)
    (project.dist / "trixie").mkdir(parents=True)
    (tmp_path / "packaging").mkdir()
    packed(tree(project.dist / "trixie" / "tree"))
    assert contents.run(project, (), accept=False) is ExitStatus.FAILED
    assert "trixie-4.6.1.txt does not exist" in capsys.readouterr().out
    assert contents.run(project, (), accept=True) is ExitStatus.GOOD
    assert contents.run(project, ("trixie",), accept=False) is ExitStatus.GOOD
    (project.dist / "trixie" / "tree" / "usr/sbin/pgpool").unlink()
    packed(project.dist / "trixie" / "tree")
    capsys.readouterr()
    assert contents.run(project, (), accept=False) is ExitStatus.FAILED
    assert "trixie: - pgpool2 file -755 root:root /usr/sbin/pgpool" in capsys.readouterr().out
    with pytest.raises(UsageError, match="dist/ has no packages of sid"):
        contents.run(project, ("sid",), accept=False)
