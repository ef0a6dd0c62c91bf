"""A new --url: every suite offers a keyring package with it, and a failed publish changes nothing."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from tests.serving import web
from tests.unit.repository.apt import Apt
from tests.unit.repository.conftest import V1, V2, Publisher, tree

from pgpool_deb.ground.errors import ExitStatus, UsageError
from pgpool_deb.ground.project import Project
from pgpool_deb.repository import check, keyring
from pgpool_deb.repository.tree import Repository
from pgpool_deb.runs.small_packages import upload

SUITES = ("bookworm-testing", "trixie-testing")
NEW = "https://new.example.org/pgpool"


def uris(deb: Path, place: Path) -> str:
    """Return the URL in the .sources of a keyring package."""
    subprocess.run(["dpkg-deb", "-x", deb, place], check=True)
    (line,) = [one for one in (place / keyring.SOURCES[1:]).read_text().splitlines() if one.startswith("URIs: ")]
    return line.removeprefix("URIs: ")


@pytest.fixture
def two_suites(published: Publisher, checkout: Project, tmp_path: Path) -> Path:
    """A repository at an old URL with two suites."""
    upload(checkout.dist / "bookworm", V1.replace("deb13", "deb12"))
    published(url="https://old.example.org/pgpool")
    return tmp_path / "repo"


@pytest.mark.parametrize(
    "options", [{"releases": ("bookworm",)}, {"renew": True}, {"new": True}], ids=lambda one: next(iter(one))
)
def test_every_suite_offers_the_new_address_to_apt(
    two_suites: Path, published: Publisher, tmp_path: Path, options: dict[str, object]
) -> None:
    """This includes suites without new packages, and publishes in which nothing else is new."""
    clients = {suite: Apt.new(tmp_path / suite, two_suites, suite=suite) for suite in SUITES}
    for suite, apt in clients.items():
        assert len(apt.versions(keyring.NAME)) == 1
        assert uris(apt.download(keyring.NAME), tmp_path / f"{suite}-before") == "https://old.example.org/pgpool"
        next(apt.place.glob("*.deb")).unlink()
    lines = published(url=NEW, **options)
    (index,) = [number for number, line in enumerate(lines) if line.startswith("the URL changes")]
    assert f"from https://old.example.org/pgpool to {NEW}; every suite gets a keyring package" in lines[index]
    assert lines[index + 1] == "hint: keep serving the old URL until all servers have run apt upgrade"
    for suite, apt in clients.items():
        assert len(apt.versions(keyring.NAME)) == 2
        assert uris(apt.download(keyring.NAME), tmp_path / f"{suite}-after") == NEW
    assert check.run(str(two_suites), lines.append, install=False) is ExitStatus.GOOD, lines
    before = len(Repository.open(two_suites).states)
    assert published(new=True)[-1].startswith("nothing to publish")
    assert len(Repository.open(two_suites).states) == before


def test_a_server_moves_by_upgrading_the_keyring_package(
    published: Publisher, checkout: Project, tmp_path: Path
) -> None:
    """Its dpkg replaces the .sources that came from keyring/ without asking."""
    repo, root = tmp_path / "repo", tmp_path / "root"
    with web(repo) as url:
        published(url=url)
        for name in ("var/lib/dpkg/info", "var/lib/dpkg/updates", "etc/apt/sources.list.d", "usr/share/keyrings"):
            (root / name).mkdir(parents=True)
        (root / "var/lib/dpkg/status").touch()
        own = root / keyring.SOURCES[1:]
        own.write_bytes((repo / "keyring/trixie-testing.sources").read_bytes())
        apt = Apt.new(tmp_path / "apt", repo, url)
        dpkg = ["dpkg", "--root", str(root), "--force-script-chrootless", "--log=/dev/null", "-i"]
        for address in (url, f"{url}/."):
            time.sleep(1.1)  # HTTP dates have a resolution of 1 s; apt would reuse the old InRelease
            published(url=address, renew=True)
            apt.versions(keyring.NAME)
            deb = apt.download(keyring.NAME)
            answer = subprocess.run([*dpkg, deb], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
            assert answer.returncode == 0, answer.stderr
            deb.unlink()
            assert f"URIs: {address}\n" in own.read_text()
        assert not list(own.parent.glob("*.dpkg-*"))


def test_a_refused_publish_keeps_the_address(two_suites: Path, published: Publisher, checkout: Project) -> None:
    upload(checkout.dist / "trixie", "4.6.1-50+deb13+1")
    before = tree(two_suites)
    with pytest.raises(UsageError, match="is older than"):
        published(url=NEW)
    assert tree(two_suites) == before


@pytest.mark.parametrize(
    "url", ["packages.example.org", "https://a b/c", "https://a/\nSuites: x", "https://a/$(id)", ""]
)
def test_an_invalid_address_is_refused(published: Publisher, tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError, match=r"is not a URL that apt accepts\nhint: ") as raised:
        published(url=url)
    assert len(str(raised.value).splitlines()) == 2
    assert not (tmp_path / "repo").exists()


@pytest.mark.parametrize("name", ["with space", 'it\'s "quoted"', "größe", "a+~b"])
def test_a_folder_of_any_name_is_a_repository_that_apt_reads(
    published: Publisher, checkout: Project, tmp_path: Path, name: str
) -> None:
    """apt reads it by the default URL of the repository, and the commands of its page work."""
    repo = tmp_path / name
    published(to=repo)
    upload(checkout.dist / "trixie", V2)
    published(to=repo)
    url = Repository.open(repo).url
    assert Apt.new(tmp_path / "apt", repo, url).versions("pgpool2") == {V1, V2}
    for where in (str(repo), url):
        lines: list[str] = []
        assert check.run(where, lines.append, install=False) is ExitStatus.GOOD, lines
    fetched = tmp_path / "fetched"
    line = keyring.lines(url, "trixie-testing", b"")[1].replace(keyring.SOURCES, str(fetched))
    subprocess.run(["sh", "-c", line], check=True, capture_output=True)
    assert fetched.read_text() == keyring.sources(url, "trixie-testing")


@pytest.mark.parametrize("name", ["100%25", "a\nb"])
def test_a_folder_that_apt_cannot_read_is_refused_unless_it_has_an_address(
    published: Publisher, tmp_path: Path, name: str
) -> None:
    """apt decodes file: URLs twice, and hangs on one with a newline."""
    with pytest.raises(
        UsageError, match=r"apt cannot read the folder .*\nhint: choose a folder name without %, or set --url"
    ):
        published(to=tmp_path / name)
    assert list((tmp_path / name).iterdir()) == []
    published(to=tmp_path / name, url=NEW)
    lines: list[str] = []
    assert check.run(str(tmp_path / name), lines.append, install=False) is ExitStatus.GOOD, lines
