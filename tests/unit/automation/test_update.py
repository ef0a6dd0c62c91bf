"""A new upstream release is downloaded and checked, and pinned only if it builds and passes."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from debian.debian_support import Version
from tests.serving import serving
from tests.unit.upstream.repositories import Repository, git

from pgpool_deb.automation import opening, update, watch
from pgpool_deb.builds import plan
from pgpool_deb.ground.errors import ExitStatus, MachineError, UsageError
from pgpool_deb.ground.project import Project
from pgpool_deb.ground.releases import ReleaseTable
from pgpool_deb.packages import patches
from pgpool_deb.runs import build_deb as building
from pgpool_deb.runs import matrix
from pgpool_deb.runs.proof import CellResult, Proof, StageResult, StageState
from pgpool_deb.upstream.pins import Pins

HERE = Path(__file__).parents[3]


def tarball(version: str, *, more: str = "") -> bytes:
    """Return a tarball that upstream might release."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, text in (("configure.ac", f"AC_INIT([pgpool-II],[{version}])\n"), ("configure", more)):
            member = tarfile.TarInfo(f"pgpool-II-{version}/{name}")
            member.size, member.mtime = len(text), 1_780_000_000
            archive.addfile(member, io.BytesIO(text.encode()))
    return packed.getvalue()


@dataclass
class Web:
    """A web server that sends `files` by their paths."""

    files: dict[str, bytes] = field(default_factory=dict)
    host: str = ""
    short: int = 0
    """The number of announced bytes that are never sent."""


@pytest.fixture
def web() -> Iterator[Web]:
    result = Web()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = result.files.get(self.path)
            promised = len(content or b"") + result.short
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(promised))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Ignore the message."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    result.host = f"http://127.0.0.1:{server.server_address[1]}"
    with serving(server):
        yield result


@dataclass
class Tried:
    """Records builds and tests with their pins, and decides how they end."""

    built: list[plan.BuildRequest] = field(default_factory=list)
    pins: list[str] = field(default_factory=list)
    default: str = ""
    tested: list[matrix.Matrix] = field(default_factory=list)
    build: ExitStatus = ExitStatus.GOOD
    state: StageState = StageState.PASSED


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> Tried:
    result = Tried()

    def build(project: Project, request: plan.BuildRequest) -> ExitStatus:
        result.built.append(request)
        pins = Pins.load(project.sources)
        result.pins = [pin.version for pin in pins.pins]
        result.default = pins.default
        return result.build

    def test(self: matrix.Matrix) -> Proof:
        result.tested.append(self)
        return Proof("", "", 0, (CellResult("trixie", "trixie", (StageResult("install", result.state),)),))

    monkeypatch.setattr(building, "run", build)
    monkeypatch.setattr(matrix.Matrix, "run", test)
    return result


@pytest.fixture
def project(tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Make a checkout with the pins of this one, whose addresses are those of `web`."""
    monkeypatch.setenv("PGPOOL_DEB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PGPOOL_DEB_SOURCES", raising=False)
    place = tmp_path / "checkout"
    (place / "packaging" / "contents").mkdir(parents=True)
    for name in ("packaging/releases.toml", "packaging/sources.toml", "CHANGELOG.md"):
        (place / name).write_text((HERE / name).read_text())
    sources = place / "packaging" / "sources.toml"
    text = sources.read_text()
    addresses = f'addresses = ["{{mirror}}/{{version}}.tar.gz", "{web.host}/upstream/{{version}}.tar.gz"]\n\n'
    sources.write_text(text[: text.index("addresses = [")] + addresses + text[text.index("[pgpool.") :])
    (place / "packaging" / "contents" / "trixie-4.6.1.txt").write_text("pgpool2 depends libc6\n")
    return Project(place)


def checkout(project: Project) -> dict[str, str]:
    return {str(path): path.read_text() for path in project.path.rglob("*") if path.is_file()}


def request(web: Web, version: str = "4.8.0", tarball: Path | None = None) -> update.UpdateRequest:
    return update.UpdateRequest(version, tarball, releases=("trixie",), mirror=f"{web.host}/debian")


def test_a_release_that_builds_and_passes_is_pinned(project: Project, web: Web, tried: Tried) -> None:
    web.files["/upstream/4.8.0.tar.gz"] = content = tarball("4.8.0")
    assert update.run(project, request(web)) is ExitStatus.GOOD
    pin = Pins.load(project.sources).named("4.8.0")
    assert pin.size == len(content)
    assert [one.pgpool for one in tried.built] == ["4.8.0"]
    assert tried.pins[0] == "4.8.0"
    assert len(tried.tested) == 1
    assert "- pgpool-II 4.8.0, of 2026-05-28, is pinned." in (project.path / "CHANGELOG.md").read_text()
    assert (project.path / "packaging" / "contents" / "trixie-4.8.0.txt").exists()
    assert "PGPOOL_DEB_SOURCES" not in os.environ


def test_a_second_update_changes_nothing(project: Project, web: Web, tried: Tried) -> None:
    web.files["/upstream/4.8.0.tar.gz"] = tarball("4.8.0")
    update.run(project, request(web))
    before = checkout(project)
    assert update.run(project, request(web)) is ExitStatus.GOOD
    assert checkout(project) == before
    assert len(tried.built) == 2


@pytest.mark.parametrize("which", ["build", "test"])
def test_a_release_that_does_not_build_or_pass_is_not_pinned(
    project: Project, web: Web, tried: Tried, which: str
) -> None:
    web.files["/upstream/4.8.0.tar.gz"] = tarball("4.8.0")
    tried.build = ExitStatus.FAILED if which == "build" else ExitStatus.GOOD
    tried.state = StageState.FAILED if which == "test" else StageState.PASSED
    before = checkout(project)
    assert update.run(project, request(web)) is ExitStatus.FAILED
    assert checkout(project) == before


def test_changes_of_package_contents_are_reported(
    project: Project, web: Web, tried: Tried, capsys: pytest.CaptureFixture[str]
) -> None:
    web.files["/upstream/4.8.0.tar.gz"] = tarball("4.8.0")
    update.run(project, request(web))
    assert tried.built
    text = capsys.readouterr().out
    assert "trixie: 1 lines of the packages' contents differ from 4.6.1\n  - pgpool2 depends libc6" in text


def test_an_older_branch_is_tested_as_well(project: Project, web: Web, tried: Tried) -> None:
    web.files["/upstream/4.6.9.tar.gz"] = tarball("4.6.9")
    assert update.run(project, request(web, "4.6.9")) is ExitStatus.GOOD
    assert len(tried.tested) == 1
    assert tried.default == "4.6.9"
    assert Pins.load(project.sources).pins[0].version == "4.7.3"
    assert not Pins.load(project.sources).default, "only while it was tried"


def test_a_pinned_release_is_not_yet_proved(project: Project, web: Web, tried: Tried) -> None:
    web.files["/upstream/4.8.0.tar.gz"] = tarball("4.8.0")
    assert update.run(project, request(web)) is ExitStatus.GOOD
    assert tried.built
    assert Pins.load(project.sources).named("4.8.0").proved is None


def test_the_output_explains_how_to_prove_a_version() -> None:
    assert "./invoke update --proved 4.7.2" in "\n".join(update.how_to_prove("4.7.2"))


def test_a_local_tarball_is_used(project: Project, web: Web, tried: Tried, tmp_path: Path) -> None:
    (tmp_path / "mine.tar.gz").write_bytes(tarball("4.8.0"))
    assert update.run(project, request(web, tarball=tmp_path / "mine.tar.gz")) is ExitStatus.GOOD
    assert len(tried.built) == 1


def test_two_addresses_with_different_files_are_an_error(project: Project, web: Web, tried: Tried) -> None:
    web.files["/upstream/4.8.0.tar.gz"] = tarball("4.8.0")
    web.files["/debian/4.8.0.tar.gz"] = tarball("4.8.0", more="evil")
    before = checkout(project)
    with pytest.raises(MachineError, match="two addresses send different files"):
        update.run(project, request(web))
    assert checkout(project) == before
    assert tried.built == []


def test_an_incomplete_download_is_an_error_and_pins_nothing(project: Project, web: Web, tried: Tried) -> None:
    web.files["/upstream/4.8.0.tar.gz"] = tarball("4.8.0")
    web.short = 10
    with pytest.raises(MachineError, match=r"no address provides it: .*ended in the middle"):
        update.run(project, request(web))
    assert tried.built == []


def test_an_unavailable_version_is_reported_with_every_answer(project: Project, web: Web, tried: Tried) -> None:
    with pytest.raises(MachineError, match=r"no address provides it: .*404.*404"):
        update.run(project, request(web))
    assert tried.built == []


@pytest.mark.parametrize("stated", ["4.8.1", "4.8.0beta1"])
def test_a_tarball_of_another_version_is_refused(project: Project, web: Web, tried: Tried, stated: str) -> None:
    web.files["/upstream/4.8.0.tar.gz"] = tarball(stated)
    with pytest.raises(UsageError, match="the tarball states"):
        update.run(project, request(web))
    assert tried.built == []


def test_a_pinned_version_with_another_hash_is_refused(project: Project, web: Web, tried: Tried) -> None:
    web.files["/upstream/4.6.1.tar.gz"] = tarball("4.6.1")
    with pytest.raises(UsageError, match=r"pgpool-II 4\.6\.1 is pinned with a sha256 other than"):
        update.run(project, request(web, "4.6.1"))
    assert tried.built == []


@pytest.mark.parametrize("version", ["", "4.8", "4.8.0rc1", "../4.8.0"])
def test_a_version_that_is_not_a_release_is_reported(project: Project, web: Web, version: str) -> None:
    with pytest.raises(UsageError, match="is not a pgpool-II release"):
        update.run(project, request(web, version))


# -- proved ------------------------------------------------------------------------------------------------------------


def report(project: Project, version: str, **changed: str) -> None:
    """Write the report of a matrix that ran a version on every release; `changed` maps stages to other states."""
    stages = {"build": "passed", **{one.name: "passed" for one in matrix.STAGES if not one.on_request}, **changed}
    cells = [
        {
            "release": release.name,
            "cell": f"{release.name}-amd64-{version}",
            "stages": [{"stage": name, "state": state} for name, state in stages.items()],
        }
        for release in ReleaseTable.load(project.releases).releases
    ]
    (project.dist / "report").mkdir(parents=True, exist_ok=True)
    (project.dist / "report" / "report.json").write_text(json.dumps({"cells": cells}))


@pytest.fixture
def pinned(project: Project) -> Project:
    """Make a checkout that has the patches, and builds 4.6.1 by default until it is proved."""
    shutil.copytree(HERE / "debian-templates", project.path / "debian-templates")
    text = project.sources.read_text()
    project.sources.write_text(f'default = "4.6.1"\n\n{text}')
    return project


def test_a_version_that_passed_everything_is_proved_with_todays_patches(pinned: Project) -> None:
    text = pinned.sources.read_text().replace('"debian-paths", ', "")
    pinned.sources.write_text(text)
    report(pinned, "4.6.1", **{"dist-upgrade": "left out"})
    assert update.prove(pinned, "4.6.1") is ExitStatus.GOOD
    pins = Pins.load(pinned.sources)
    names = tuple(patch.name for patch in patches.chosen(pinned.templates("pgpool2"), "4.6.1"))
    assert (pins.default, pins.named("4.6.1").proved) == ("", names)
    assert [pin.version for pin in pins.pins if pin.proved is not None] == ["4.6.1"], "4.7.2 had other patches"
    again = pinned.sources.read_text()
    assert update.prove(pinned, "4.6.1") is ExitStatus.GOOD
    assert pinned.sources.read_text() == again
    assert max(map(len, again.splitlines())) <= max(120, *map(len, text.splitlines()))


@pytest.mark.parametrize(
    ("version", "changed", "reason"),
    [
        ("4.6.1", {"cluster": "failed"}, "bookworm: cluster failed"),
        ("4.3.5", {}, "the last matrix did not test it on bookworm"),
        ("4.9.9", {}, "4.9.9"),
    ],
)
def test_a_version_that_did_not_pass_is_not_proved(
    pinned: Project, version: str, changed: dict[str, str], reason: str
) -> None:
    report(pinned, "4.6.1", **changed)
    before = checkout(pinned)
    with pytest.raises(UsageError, match=re.escape(reason)):
        update.prove(pinned, version)
    assert checkout(pinned) == before


def test_a_new_pin_comes_before_those_of_later_versions(project: Project, web: Web, tried: Tried) -> None:
    web.files["/upstream/4.6.2.tar.gz"] = tarball("4.6.2")
    assert update.run(project, request(web, "4.6.2")) is ExitStatus.GOOD
    versions = re.findall(r'^\[pgpool\."(.*)"\]', project.sources.read_text(), re.MULTILINE)
    assert versions == sorted(versions, key=Version)


# -- open --------------------------------------------------------------------------------------------------------------

TRACKER = """
<table><tr><td><b>Name</b></td><td>{cve}</td></tr>
<tr><td><b>Description</b></td><td>A "quoted" fault in Pgpool-II &amp; others\x7f. It has a second sentence.</td></tr>
</table>
<p>The information below is based on the following data on fixed versions.</p>
<table><tr><th>Package</th><th>Type</th><th>Release</th><th>Fixed Version</th><th>Urgency</th></tr>
<tr><td><a href="/other">other</a></td><td>source</td><td>(unstable)</td><td>9.9.9-1</td></tr>
<tr><td><a href="/pgpool2">pgpool2</a></td><td>source</td><td>(unstable)</td><td>{fixed}</td></tr>
</table>"""
CVE = "CVE-2026-99001"


@pytest.fixture
def opened(project: Project, web: Web, tried: Tried, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Make a git checkout for which upstream has tagged 4.8.0 and Debian has no news."""
    assert tried
    shutil.copy(HERE / "pyproject.toml", project.path)
    shutil.copytree(HERE / "debian-templates", project.path / "debian-templates")
    upstream = Repository(tmp_path / "upstream", tmp_path / "none")
    for place in (upstream.root, project.path):
        place.mkdir(exist_ok=True)
        git(place, "init", "-q")
    upstream.commit("4.8.0", "V4_8_0", "V4_7_3")
    for name in ("user.name", "user.email"):
        git(project.path, "config", name, "test@example.org")
    git(project.path, "add", ".")
    git(project.path, "commit", "-q", "-m", "before")
    web.files |= {"/upstream/4.8.0.tar.gz": tarball("4.8.0"), "/tracker/source-package/pgpool2": b"none"}
    monkeypatch.setattr(watch, "UPSTREAM", str(upstream.root))
    monkeypatch.setattr(watch, "DEBIAN", f"{web.host}/tracker/source-package/pgpool2")
    return project


def opening_says(project: Project, web: Web) -> tuple[ExitStatus, list[str]]:
    lines: list[str] = []
    without_version = update.UpdateRequest("", mirror=f"{web.host}/debian")
    return opening.run(project, without_version, lines.append), lines


def branch(project: Project) -> str:
    return git(project.path, "branch", "--show-current")


def test_a_new_tag_becomes_a_commit_on_a_branch_that_builds_it(opened: Project, web: Web, tried: Tried) -> None:
    main = branch(opened)
    assert opening_says(opened, web)[0] is ExitStatus.GOOD
    assert branch(opened) == "update/4.8.0"
    assert git(opened.path, "status", "--porcelain", "--untracked-files=no") == ""
    assert git(opened.path, "rev-list", "--count", f"{main}..HEAD") == "1"
    pins = Pins.load(opened.sources)
    assert (pins.default, pins.named("4.8.0").proved) == ("4.8.0", None)
    kept = [path.name for path in (opened.path / "packaging" / "contents").glob("*-4.8.0.txt")]
    releases = [release.name for release in ReleaseTable.load(opened.releases).releases]
    assert sorted(kept) == sorted(f"{name}-4.8.0.txt" for name in releases), "the matrix compares with it everywhere"
    assert tried.built[0].releases == tuple(releases)


def test_a_matrix_on_the_branch_proves_it(opened: Project, web: Web) -> None:
    opening_says(opened, web)
    report(opened, "4.8.0")
    assert update.prove(opened, "4.8.0") is ExitStatus.GOOD
    pins = Pins.load(opened.sources)
    assert (pins.default, bool(pins.named("4.8.0").proved)) == ("", True)


def test_an_open_change_is_not_opened_again(opened: Project, web: Web, tried: Tried) -> None:
    main = branch(opened)
    opening_says(opened, web)
    git(opened.path, "switch", "-q", main)
    git(opened.path, "update-ref", "refs/remotes/origin/update/4.8.0", "update/4.8.0")
    git(opened.path, "branch", "-D", "update/4.8.0")
    assert opening_says(opened, web) == (
        ExitStatus.GOOD,
        ["nothing to open: there is no news, or its change is already open"],
    )
    assert (branch(opened), len(tried.built)) == (main, 1)


def test_a_release_that_does_not_build_is_not_opened(opened: Project, web: Web, tried: Tried) -> None:
    tried.build = ExitStatus.FAILED
    main = branch(opened)
    assert opening_says(opened, web)[0] is ExitStatus.FAILED
    assert (branch(opened), git(opened.path, "status", "--porcelain", "--untracked-files=no")) == (main, "")


def test_debians_advisories_come_first_and_raise_the_cluster_packages_version(
    opened: Project, web: Web, tried: Tried
) -> None:
    web.files["/tracker/source-package/pgpool2"] = CVE.encode()
    web.files[f"/tracker/{CVE}"] = TRACKER.format(cve=CVE, fixed="4.8.0-1").encode()
    before = opened.version
    assert opening_says(opened, web)[0] is ExitStatus.GOOD
    assert branch(opened) == f"update/{CVE}"
    known = Pins.load(opened.sources).known[-1]
    assert (known.cves, known.fixed_in) == ((CVE,), "4.8.0")
    assert known.summary == 'A "quoted" fault in Pgpool-II & others'
    assert Version(opened.version) > Version(before)
    assert tried.built == []
    git(opened.path, "switch", "-q", "-")
    assert opening_says(opened, web)[0] is ExitStatus.GOOD
    assert branch(opened) == "update/4.8.0", "the next run takes the next change"


@pytest.mark.parametrize("fixed", ["(unfixed)", "4.8.0-2", "1:4.8-1", "<script>"])
def test_without_a_fixed_version_at_debian_a_person_must_decide(fixed: str, opened: Project, web: Web) -> None:
    web.files["/tracker/source-package/pgpool2"] = CVE.encode()
    web.files[f"/tracker/{CVE}"] = TRACKER.format(cve=CVE, fixed=fixed).encode()
    _, lines = opening_says(opened, web)
    assert lines[0].startswith(f"warning: {CVE}: Debian lists no upstream release with the fix")
    assert branch(opened) == "update/4.8.0"


def test_nothing_is_opened_from_a_checkout_with_changes(opened: Project, web: Web) -> None:
    (opened.path / "CHANGELOG.md").write_text("mine")
    with pytest.raises(UsageError, match="the checkout has uncommitted changes"):
        opening_says(opened, web)


def test_if_upstream_does_not_answer_the_environment_failed(
    opened: Project, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "UPSTREAM", "/no-such-repository")
    status, lines = opening_says(opened, web)
    assert status is ExitStatus.ENVIRONMENT
    assert lines[0].startswith("warning: upstream's tags cannot be read")
