"""Debian's reprotest: same bytes for every time, path, user, umask, locale, zone, cores, kernel and file order."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from debian.deb822 import Dsc
from tests.built import Built
from tests.chroot import Chroot

from pgpool_deb.boxes.roots import Roots
from pgpool_deb.ground.command import Runner
from pgpool_deb.ground.releases import Release
from pgpool_deb.upstream.download import sha256_of

TOOLS = (
    "build-essential", "reprotest", "disorderfs", "faketime", "locales-all", "sudo", "diffoscope-minimal",
    "binutils", "xz-utils",
)  # fmt: skip
PREPARE = """
[ -e /dev/fuse ] || mknod -m 666 /dev/fuse c 10 229
[ -e /etc/mtab ] || ln -s ../proc/self/mounts /etc/mtab
echo 127.0.0.1 localhost builder reprotest-capture-hostname >/etc/hosts
"""
"""The requirements of reprotest for a chroot (its own preset for schroot), and of sudo for /etc/hosts."""
REPROTEST = """
rm -rf /tmp/store /tmp/unpacked
mkdir /tmp/unpacked
cd /tmp/unpacked
dpkg-source -x {dsc} tree
find tree -type f -mmin -60 -exec touch -d '+2 days' {{}} +
reprotest --verbosity=1 --store-dir=/tmp/store --vary={vary} \\
    --build-command='cd tree && dpkg-buildpackage --no-sign -b' . '*.*deb' -- null
"""
"""
The source is unpacked first, because dpkg-source cannot set times under the faketime of bookworm. Patched files get the
time of a clock that was ahead then: make considers them newer than every file that the build makes.
"""
VARY = "+all,user_group.available+=builder:builder,domain_host.use_sudo=1,time.faketimes+=+398days"
"""All variations of reprotest. Without these values, it has no other user and does not vary the time of old sources."""
VARIED = (
    "ENVIRONMENT", "KERNEL", "ASLR", "NUM_CPUS", "FAKETIME", "DISORDERFS", "DOMAIN_HOST", "HOME", "LOCALE", "EXEC_PATH",
    "TIMEZONE", "UMASK",
)  # fmt: skip
"""The variations that it logs. It does not log the variation of the build path and of the user."""
SUM = re.compile(r"^([0-9a-f]{64})  \./(\S+\.deb)$", re.MULTILINE)
LEAKY = """
rm -rf /leaky
mkdir -p /leaky/debian/source
cd /leaky
echo '3.0 (native)' >debian/source/format
printf 'Source: leaky\\nMaintainer: x <x@y.z>\\nRules-Requires-Root: no\\n' >debian/control
printf 'Build-Depends: debhelper-compat (= 13)\\n\\n' >>debian/control
printf 'Package: leaky\\nArchitecture: all\\nDescription: x\\n' >>debian/control
printf 'leaky (1) unstable; urgency=low\\n\\n  * x\\n\\n' >debian/changelog
echo ' -- x <x@y.z>  Thu, 01 Jan 2026 00:00:00 +0000' >>debian/changelog
printf '#!/usr/bin/make -f\\n%%:\\n\\tdh $@\\noverride_dh_auto_build:\\n\\tsh -eu debian/leaks\\n' >debian/rules
echo 'leaked/* usr/share/leaky' >debian/install
mkdir many
touch $(seq -f many/%g 30)
chmod 755 debian/rules
cat >debian/leaks <<'END'
mkdir -p leaked
{leaks}
END
cd /
dpkg-source -b leaky
"""
LEAKS = {
    "time": "date +%Y-%m",
    "path": "pwd",
    "user": "id -un",
    "umask": "umask",
    "locale": "locale",
    "zone": "date -d @0 +%z",
    "cores": "nproc",
    "kernel": "uname -r",
    "order": "ls -U many",
    "host": "hostname",
    "home": "echo $HOME",
    "programs": "echo $PATH",
    "environment": "env",
}


@pytest.fixture(scope="module")
def tester(release: Release, packages: Built, roots: Roots, systems: Path) -> Iterator[Chroot]:
    """A system of the release with reprotest, the build dependencies of our packages, and our packages in /dist."""
    asked = [word for path in sorted(packages.folder.glob("*.dsc")) for word in build_depends(path)]
    root = roots.obtain(release, tuple(dict.fromkeys([*TOOLS, *asked])), Runner(systems / "reprotest.log"))
    chroot = Chroot(root, systems / f"reprotest-{release.name}", ((packages.folder, "/dist"),))
    yield chroot
    chroot.remove()


def build_depends(path: Path) -> list[str]:
    """Return the build dependencies of a source package, in the syntax of apt-get satisfy."""
    with path.open(encoding="utf-8") as handle:
        words = Dsc(handle)["Build-Depends"].replace("\n", " ").split(",")
    return [word.strip() for word in words if word.strip()]


@pytest.mark.parametrize("source", ["pgpool2-cluster", "pgpool2"])
def test_no_variation_changes_a_byte(
    tester: Chroot, packages: Built, source: str, record_testsuite_property: Callable[[str, object], None]
) -> None:
    files = packages.files if source == "pgpool2" else packages.cluster_files
    (dsc,) = [name for name in files if name.endswith(".dsc")]
    answer = tester.attempt(PREPARE + REPROTEST.format(dsc=f"/dist/{dsc}", vary=VARY), stall=3600)
    assert answer.status == 0, answer.output[-8000:]
    varied = [name for name in VARIED if f"{name} variation: " in answer.output]
    record_testsuite_property(f"{source}, varied", ", ".join([*varied, "BUILD_PATH", "USER_GROUP"]))
    assert varied == list(VARIED), answer.output[-8000:]
    made = {name: sha256 for sha256, name in SUM.findall(answer.output)}
    assert made == {name: sha256_of(packages.folder / name) for name in files if name.endswith(".deb")}


def test_reprotest_detects_each_variation(tester: Chroot) -> None:
    leaks = "\n".join(f"{command} >leaked/{name}" for name, command in LEAKS.items())
    script = PREPARE + LEAKY.format(leaks=leaks) + REPROTEST.format(dsc="/leaky_1.dsc", vary=VARY)
    answer = tester.attempt(script)
    assert answer.status == 1, answer.output[-8000:]
    assert {name for name in LEAKS if f"./usr/share/leaky/{name}\n" in answer.output} == set(LEAKS)
