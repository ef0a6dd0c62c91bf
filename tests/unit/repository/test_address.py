"""Another --url: every suite tells its clients of it by a keyring package, and a publish that fails tells nobody."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from tests.serving import web
from tests.unit.repository.apt import Apt
from tests.unit.repository.conftest import V1, V2, Publisher, tree

from pgpool_deb.errors import ExitStatus, UsageError
from pgpool_deb.project import Project
from pgpool_deb.repository import check, keyring
from pgpool_deb.repository.tree import Repository
from pgpool_deb.small_packages import upload

SUITES = ("bookworm-testing", "trixie-testing")
NEW = "https://new.example.org/pgpool"


def uris(deb: Path, place: Path) -> str:
    """The address in the .sources of a keyring package."""
    subprocess.run(["dpkg-deb", "-x", deb, place], check=True)
    (line,) = [one for one in (place / keyring.SOURCES[1:]).read_text().splitlines() if one.startswith("URIs: ")]
    return line.removeprefix("URIs: ")


@pytest.fixture
def two_suites(published: Publisher, checkout: Project, tmp_path: Path) -> Path:
    """A repository at an old address with two suites."""
    upload(checkout.dist / "bookworm", V1.replace("deb13", "deb12"))
    published(url="https://old.example.org/pgpool")
    return tmp_path / "repo"


@pytest.mark.parametrize(
    "options", [{"releases": ("bookworm",)}, {"renew": True}, {"new": True}], ids=lambda one: next(iter(one))
)
def test_apt_takes_the_new_address_from_every_suite(
    two_suites: Path, published: Publisher, tmp_path: Path, options: dict[str, object]
) -> None:
    """Also from those without new packages, and where nothing else is new."""
    clients = {suite: Apt.new(tmp_path / suite, two_suites, suite=suite) for suite in SUITES}
    for suite, apt in clients.items():
        assert len(apt.versions(keyring.NAME)) == 1
        assert uris(apt.download(keyring.NAME), tmp_path / f"{suite}-before") == "https://old.example.org/pgpool"
        next(apt.place.glob("*.deb")).unlink()
    said = published(url=NEW, **options)
    (told,) = [number for number, line in enumerate(said) if line.startswith("the address changes")]
    assert f"from https://old.example.org/pgpool to {NEW}: every suite offers a keyring package" in said[told]
    assert said[told + 1] == "hint: serve the old address, too, until all servers have run apt upgrade"
    for suite, apt in clients.items():
        assert len(apt.versions(keyring.NAME)) == 2
        assert uris(apt.download(keyring.NAME), tmp_path / f"{suite}-after") == NEW
    assert check.run(str(two_suites), said.append, install=False) is ExitStatus.GOOD, said
    before = len(Repository.open(two_suites).states)
    assert published(new=True)[-1].startswith("nothing is new")
    assert len(Repository.open(two_suites).states) == before


def test_a_server_goes_over_by_upgrading_the_keyring_package(
    published: Publisher, checkout: Project, tmp_path: Path
) -> None:
    """With a dpkg of its own: the .sources that came from keyring/ is replaced without a question."""
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
            time.sleep(1.1)  # HTTP tells a changed file by the second: apt would take the InRelease before
            published(url=address, renew=True)
            apt.versions(keyring.NAME)
            deb = apt.download(keyring.NAME)
            answer = subprocess.run([*dpkg, deb], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
            assert answer.returncode == 0, answer.stderr
            deb.unlink()
            assert f"URIs: {address}\n" in own.read_text()
        assert not list(own.parent.glob("*.dpkg-*"))


def test_a_publish_that_is_refused_leaves_the_address(
    two_suites: Path, published: Publisher, checkout: Project
) -> None:
    upload(checkout.dist / "trixie", "4.6.1-50+deb13+1")
    before = tree(two_suites)
    with pytest.raises(UsageError, match="is older than"):
        published(url=NEW)
    assert tree(two_suites) == before


@pytest.mark.parametrize(
    "url", ["packages.example.org", "https://a b/c", "https://a/\nSuites: x", "https://a/$(id)", ""]
)
def test_what_is_no_address_is_refused(published: Publisher, tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError, match=r"is no address\nhint: ") as raised:
        published(url=url)
    assert len(str(raised.value).splitlines()) == 2
    assert not (tmp_path / "repo").exists()


@pytest.mark.parametrize("name", ["with space", 'it\'s "quoted"', "größe", "a+~b"])
def test_a_folder_of_any_name_is_a_repository_that_apt_reads(
    published: Publisher, checkout: Project, tmp_path: Path, name: str
) -> None:
    """By the address that the repository has by default, and by the lines of its page."""
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
    """apt decodes file: addresses twice, and waits for ever for one with a newline."""
    with pytest.raises(UsageError, match=r"apt cannot read the folder .*\nhint: choose a name without %, or say --url"):
        published(to=tmp_path / name)
    assert list((tmp_path / name).iterdir()) == []
    published(to=tmp_path / name, url=NEW)
    lines: list[str] = []
    assert check.run(str(tmp_path / name), lines.append, install=False) is ExitStatus.GOOD, lines
