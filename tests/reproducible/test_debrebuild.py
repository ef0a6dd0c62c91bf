"""Debian's debrebuild and sbuild rebuild our packages, byte for byte, from the published files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.built import Built
from tests.chroot import Answer, Chroot

from pgpool_deb.boxes import archive
from pgpool_deb.boxes.roots import Roots
from pgpool_deb.ground.command import Runner
from pgpool_deb.ground.errors import MachineError
from pgpool_deb.ground.project import Project
from pgpool_deb.ground.releases import Release, ReleaseTable

TOOLS = (
    "devscripts", "sbuild", "mmdebstrap", "uidmap", "iproute2", "equivs", "apt-utils", "gpg", "gpgv", "gpg-agent",
    "python3-requests", "python3-debian", "python3-apt", "libstring-shellquote-perl", "libwww-perl",
    "libfile-homedir-perl", "debian-archive-keyring",
)  # fmt: skip
"""devscripts and sbuild with packages that they only recommend; apt-utils and gpg-agent for the archive's stand-in."""
FIRST_RELEASE = 13
"""bookworm's debrebuild gets source packages only from Debian's snapshot archive, which does not have ours."""
TIME = "20260101T000000Z"
PAST = f"/past/archive/debian/{TIME}"
FETCH = """
mkdir -p {past}/pool
cd {past}/pool
apt-get -q update
sed -n '/^Installed-Build-Depends/,/^[A-Z]/s/^ \\([^ ]*\\) (= \\(.*\\)).*/\\1=\\2/p' /dist/*.buildinfo | sort -u >/list
apt-get -q -o APT::Sandbox::User=root -o Acquire::Retries=3 download $(cat /list)
"""
INDEX = """
index() {{ # folder suite: sign an index of what it has in pool/
    mkdir -p $1/pool $1/dists/$2/main/binary-$architecture
    cd $1
    apt-ftparchive packages pool >dists/$2/main/binary-$architecture/Packages
    cd dists/$2
    options="-o APT::FTPArchive::Release::Suite=$2 -o APT::FTPArchive::Release::Codename=$2"
    options="$options -o APT::FTPArchive::Release::Architectures=$architecture"
    apt-ftparchive $options -o APT::FTPArchive::Release::Components=main release . >/tmp/Release
    gpg -q --batch --yes --clearsign -o InRelease /tmp/Release
}}
architecture=$(dpkg --print-architecture)
mkdir -m 700 /root/.gnupg
gpg -q --batch --passphrase '' --quick-generate-key past ed25519 sign
gpg --export >/usr/share/keyrings/past.gpg
gpg --export >>/usr/share/keyrings/debian-archive-keyring.gpg
index {past} {suite}
index /past/debian unstable # a newer debootsnap asks first what unstable has now: nothing
useradd -m -s /bin/sh stranger
"""
PUBLISHED = """
rm -rf /home/stranger/*
cd /home/stranger
cp {files} .
chown -R stranger: .
cat >/srv/as-stranger <<'END'
export HOME=/home/stranger
cd
{script}
END
"""
OWN_ROOT = """
cat >/srv/own-root <<'END'
cd "$1"
mkdir -p sys
mount --rbind /sys sys
mount -t tmpfs -o mode=1777 tmpfs tmp
: >dev/console
mount --bind /dev/console dev/console
exec unshare --mount sh -euc 'pivot_root . mnt; exec chroot . sh -eu /srv/become-stranger'
END
cat >/srv/become-stranger <<'END'
umount -l /mnt
exec runuser -u stranger -- sh -eu /srv/as-stranger
END
echo 127.0.0.1 localhost builder >/etc/hosts
chroot /proc/1/root sh -eu '{root}/srv/own-root' '{root}'
"""
"""As a plain user, debrebuild and sbuild create user namespaces, which the kernel refuses in a chroot. So the system
gets its own root directory. /tmp is in memory, as in Debian since trixie."""
STAND_IN = """
grep -ohE '[a-z]+[.]debian[.](org|net)' "$(command -v debootsnap)" | sort -u | sed 's/^/127.0.0.1 /' >>/etc/hosts
python3 /srv/past.py /past {suite} {time} >/tmp/past.log 2>&1 &
sleep 2
"""
DEBREBUILD = """
# Only a newer debrebuild can do with a record that names the source package as well.
sed -i '/^Architecture:/s/ source//' ./*.buildinfo
debrebuild --buildresult=again --builder=sbuild+unshare ./*.buildinfo
"""
SBUILD = """
mkdir -p .cache/sbuild again
root=.cache/sbuild/{suite}-$(dpkg --print-architecture).tar
[ -e "$root" ] || mmdebstrap --variant=buildd {suite} "$root" {sources}
cd again
sbuild --dist={suite} --chroot-mode=unshare --arch-all --no-run-lintian --no-run-autopkgtest --no-run-piuparts \\
    --verbose --nolog ../*.dsc
sed -n '/^Checksums-Sha256/,/^Build-/s/^ \\([0-9a-f]*\\) [0-9]* \\(.*[.]deb\\)$/\\1  \\2/p' ../*.buildinfo >sums
sha256sum --check sums
"""
CHECKED = re.compile(r"^checking (\S+): size\.\.\. (?:(?:md5|sha1|sha256)\.\.\. ){3}all OK$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Stranger:
    """A user of a Debian system with Debian's tools and our published files."""

    chroot: Chroot
    suite: str

    def run(self, script: str, files: str, *, network: bool = False) -> Answer:
        """Run a script as a plain user, in a folder with copies of `files`; without `network`, start the stand-in."""
        begin, end = OWN_ROOT.format(root=self.chroot.place / "root").rsplit("\n", 2)[:2]
        stand_in = "" if network else STAND_IN.format(suite=self.suite, time=TIME)
        whole = "\n".join([PUBLISHED.format(files=files, script=script), begin, stand_in, end])
        return self.chroot.attempt(whole, network=network, stall=3600)


@pytest.fixture(scope="module")
def stranger(release: Release, packages: Built, project: Project, roots: Roots, systems: Path) -> Iterator[Stranger]:
    """A user with the tools of the release, or of stable if those are too old, and our packages' build environment."""
    tools = release if release.number >= FIRST_RELEASE else ReleaseTable.load(project.releases).stable
    runner = Runner(systems / "stranger.log")
    past = systems / f"past-{release.name}"
    past.mkdir()
    binds = ((packages.folder, "/dist"), (past, "/past"))
    bare = Chroot(roots.obtain(release, (), runner), systems / f"fetch-{release.name}", binds)
    fetched = bare.attempt(FETCH.format(past=PAST), network=True)
    bare.remove()
    if fetched.status != 0:
        gone = next(
            (line for line in fetched.output.splitlines() if line.startswith("E: ")), f"status {fetched.status}"
        )
        raise MachineError(
            f"{release.name}: {gone.removeprefix('E: ')}",
            hint="rebuild the packages: the mirror no longer has the versions that they were built with",
        )
    served = (*binds, (Path(__file__).with_name("past.py"), "/srv/past.py"))
    chroot = Chroot(roots.obtain(tools, TOOLS, runner), systems / f"stranger-{release.name}", served)
    chroot.run(INDEX.format(past=PAST, suite=release.name))
    yield Stranger(chroot, release.name)
    chroot.remove()


@pytest.fixture(params=["pgpool2-cluster", "pgpool2"])
def published(request: pytest.FixtureRequest, packages: Built) -> tuple[str, set[str]]:
    """A source package and the .buildinfo, as words of a shell command, and the .debs that were built from it."""
    files = packages.files if request.param == "pgpool2" else packages.cluster_files
    words = " ".join(f"/dist/{name}" for name in files if name.endswith((".dsc", ".gz", ".xz", ".buildinfo")))
    return words, {name for name in files if name.endswith(".deb")}


def test_debrebuild_builds_the_same_packages(stranger: Stranger, published: tuple[str, set[str]]) -> None:
    files, debs = published
    answer = stranger.run(DEBREBUILD, files)
    assert answer.status == 0, answer.output[-8000:]
    assert set(CHECKED.findall(answer.output)) == debs, answer.output[-4000:]


def test_sbuild_builds_the_same_packages_from_todays_archive(
    stranger: Stranger, published: tuple[str, set[str]], release: Release
) -> None:
    files, debs = published
    lines = archive.find_archive(None).sources(release)
    script = SBUILD.format(suite=release.suites[0], sources=" ".join(f"'{line}'" for line in lines))
    answer = stranger.run(script, files, network=True)
    assert answer.status == 0, answer.output[-8000:]
    assert {name for name in debs if f"{name}: OK" in answer.output.splitlines()} == debs
