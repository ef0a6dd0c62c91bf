"""The project's tasks: `./invoke --list`. Options become a request here; everything else is in packaging/pgpool_deb."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "packaging"))

from invoke import Context, Exit, task  # noqa: E402

from pgpool_deb import benches, plan, testing  # noqa: E402
from pgpool_deb import build_deb as building  # noqa: E402
from pgpool_deb.errors import ExitStatus  # noqa: E402
from pgpool_deb.project import Project  # noqa: E402


def _end(status: ExitStatus) -> None:
    if status is not ExitStatus.GOOD:
        raise Exit(code=int(status))


@task(
    name="build-deb",
    help={
        "release": "Debian releases, joined by commas (default: this machine's, else stable)",
        "pg": "PostgreSQL majors, joined by commas (default: all that releases.toml lists)",
        "pgpool": "a pinned version of pgpool-II (default: the newest that can be had)",
        "source": "a tarball, an unpacked tree or a git checkout of pgpool-II instead",
        "engine": "auto, docker or chroot",
        "endpoint": "docker contexts or addresses, joined by commas, that builds are spread over",
        "jobs": "packages built side by side (default: the number of cores)",
        "mirror": "URI of a Debian mirror (default: that of this machine's apt)",
        "explain": "say what would be built and why; build nothing",
        "install": "--no-install: never install missing Debian packages on this machine",
        "stall": "seconds without output after which a step counts as hung",
        "strict": "fail where one of our patches does not fit, rather than build without it",
    },
)
def build_deb(
    context: Context,
    release: str | None = None,
    pg: str | None = None,
    pgpool: str | None = None,
    source: str | None = None,
    engine: str = "auto",
    endpoint: str | None = None,
    jobs: int = 0,
    mirror: str | None = None,
    explain: bool = False,
    install: bool = True,
    stall: int = 600,
    strict: bool = False,
) -> None:
    """Build pgpool-II, its recovery function and the cluster package into .debs, in dist/<release>/."""
    endpoints = plan.parse_endpoints(endpoint)
    request = plan.Request(
        releases=plan.parse_releases(release),
        majors=plan.parse_majors(pg),
        pgpool=pgpool,
        source=Path(source) if source else None,
        engine=engine,
        endpoints=endpoints,
        jobs=jobs or max(os.cpu_count() or 1, len(endpoints)),
        mirror=mirror,
        install=install,
        stall=float(stall),
        strict=strict,
    )
    project = Project(HERE)
    _end(building.explain(project, request) if explain else building.run(project, request))


@task(
    help={
        "what": "build, cluster or repository",
        "release": "the Debian release of a cluster's hosts (default: this machine's, else stable)",
        "pairs": "how often each side of a comparison is run; the medians are compared",
        "mode": "of a cluster: streaming_replication or native_replication",
        "scratch": "a folder for the bench's own cache (default: a new one, removed afterwards)",
    }
)
def bench(
    context: Context,
    what: str,
    pairs: int = 3,
    scratch: str | None = None,
    release: str | None = None,
    mode: str = benches.STREAMING,
) -> None:
    """Measure and compare; the table goes to the screen and to dist/bench/."""
    place = Path(scratch) if scratch else None
    _end(benches.run(Project(HERE), what, pairs=pairs, scratch=place, releases=release, mode=mode))


@task(help={"cell": "as in the closing lines of build-deb: trixie-amd64-4.6.1"})
def shell(context: Context, cell: str) -> None:
    """Open a shell in the root where a cell failed."""
    building.shell(cell)


@task(
    name="test",
    help={
        "level": "unit, package, install, cluster (default: all of these), upstream, fuzz, reproducible; by commas",
        "release": "Debian releases, joined by commas (default: this machine's and stable)",
        "all": "every release of releases.toml",
        "install": "--no-install: never install missing Debian packages on this machine",
        "coverage": "print which part of each package and file the unit level runs",
    },
)
def run_tests(
    context: Context,
    level: str | None = None,
    release: str | None = None,
    all: bool = False,  # noqa: A002
    install: bool = True,
    coverage: bool = False,
) -> None:
    """Run the tests; JUnit reports in dist/test-LEVEL.xml."""
    request = testing.Request(testing.parse_levels(level), plan.parse_releases(release), all, install, coverage)
    _end(testing.run(Project(HERE), request))


@task(
    name="matrix",
    help={
        "release": "Debian releases, joined by commas (default: every row of releases.toml)",
        "stage": "quality, debian, install, cluster, dist-upgrade (default: all of these), upstream; by commas",
        "jobs": "stages tried side by side (default: the number of cores)",
        "install": "--no-install: never install missing Debian packages on this machine",
    },
)
def run_matrix(
    context: Context, release: str | None = None, stage: str | None = None, jobs: int = 0, install: bool = True
) -> None:
    """Build and prove every cell; the report is dist/report/index.html."""
    from pgpool_deb import matrix  # noqa: PLC0415 - an unchanged build-deb need not load it

    request = matrix.Request(
        plan.parse_releases(release), matrix.parse_stages(stage), jobs or os.cpu_count() or 1, install
    )
    _end(matrix.run(Project(HERE), request))


@task(name="gather", help={"where": "a folder with one folder for each run: its dist/report and dist/RELEASE"})
def gather_runs(context: Context, where: str) -> None:
    """Make one dist/ of what runs of the matrix on several machines left, as if it had been one."""
    from pgpool_deb import gather  # noqa: PLC0415 - an unchanged build-deb need not load it

    _end(gather.run(Project(HERE), Path(where), building.say))


@task(name="ci", help={"engine": "github or gitlab"})
def write_pipeline(context: Context, engine: str) -> None:
    """Write the pipeline of a CI engine into this checkout: one job for each release of releases.toml."""
    from pgpool_deb import pipelines  # noqa: PLC0415 - an unchanged build-deb need not load it
    from pgpool_deb.releases import ReleaseTable  # noqa: PLC0415

    project = Project(HERE)
    releases = [release.name for release in ReleaseTable.load(project.releases).releases]
    print(pipelines.write(project.path, engine, releases))


@task(
    name="contents",
    help={
        "release": "Debian releases, joined by commas (default: all in dist/)",
        "accept": "keep what is in dist/ now",
    },
)
def compare_contents(context: Context, release: str | None = None, accept: bool = False) -> None:
    """Compare the packages in dist/ with what packaging/contents keeps of each release."""
    from pgpool_deb import contents  # noqa: PLC0415 - an unchanged build-deb need not load it

    _end(contents.run(Project(HERE), plan.parse_releases(release), accept=accept))


@task(
    name="patches",
    help={
        "pgpool": "the pinned version that mails are made for (default: the newest whose tarball is in the cache)",
        "install": "--no-install: never install missing Debian packages on this machine",
    },
)
def write_patches(context: Context, pgpool: str | None = None, install: bool = True) -> None:
    """List our patches in docs/reference/patches.md, and write those upstream could use as mails in dist/upstream."""
    from pgpool_deb import patch_mails  # noqa: PLC0415 - an unchanged build-deb need not load it

    _end(patch_mails.run(Project(HERE), pgpool, install=install, report=building.say))


@task(
    help={
        "pgpool": "the upstream release, for example 4.7.4 (default: tell what is new there and at Debian)",
        "open": "commit what is new on a branch of its own, ready to be pushed",
        "proved": "a pinned release that the matrix has passed: it is proved, with today's patches",
        "tarball": "its tarball, where no address has it",
        "release": "Debian releases to try it on, joined by commas (default: this machine's, else stable)",
        "mirror": "URI of a Debian mirror (default: that of this machine's apt)",
        "jobs": "what is done side by side (default: the number of cores)",
        "install": "--no-install: never install missing Debian packages on this machine",
    }
)
def update(
    context: Context,
    pgpool: str | None = None,
    open: bool = False,  # noqa: A002
    proved: str | None = None,
    tarball: str | None = None,
    release: str | None = None,
    mirror: str | None = None,
    jobs: int = 0,
    install: bool = True,
) -> None:
    """Pin a new upstream release once it builds and passes its tests; without --pgpool, tell what is new upstream."""
    from pgpool_deb import update as updating  # noqa: PLC0415 - an unchanged build-deb need not load it

    if proved is not None:
        _end(updating.prove(Project(HERE), proved))
        return
    if pgpool is None and not open:
        from pgpool_deb import watch  # noqa: PLC0415 - an unchanged build-deb need not load it
        from pgpool_deb.pins import Pins  # noqa: PLC0415

        _end(watch.run(Pins.load(Project(HERE).sources), building.say))
        return
    request = updating.Request(
        version=pgpool or "",
        tarball=Path(tarball) if tarball else None,
        releases=plan.parse_releases(release),
        mirror=mirror,
        jobs=jobs or os.cpu_count() or 1,
        install=install,
    )
    if open:
        from pgpool_deb import opening  # noqa: PLC0415 - an unchanged build-deb need not load it

        _end(opening.run(Project(HERE), request, building.say))
    else:
        _end(updating.run(Project(HERE), request))


@task(name="release", help={"version": "of the package pgpool2-cluster and this project, for example 0.3.0"})
def cut_release(context: Context, version: str) -> None:
    """Date the changelog's unreleased changes, set the version, commit and tag; docs/how-to/cut-a-release.md."""
    from datetime import datetime  # noqa: PLC0415

    from pgpool_deb import cut_release as cutting  # noqa: PLC0415 - an unchanged build-deb need not load it

    _end(cutting.run(Project(HERE), version, building.say, today=datetime.now().astimezone().date()))


@task(
    help={
        "to": "the folder of the repository; it is made where it is missing",
        "suite": "testing or stable",
        "release": "Debian releases, joined by commas (default: all that dist/ has packages of)",
        "key": "fingerprints of your gpg keyring, files with a secret key, env:NAME (default: one made on first use)",
        "url": "where clients find the folder, remembered (default: its file: address)",
        "unproved": "publish what no matrix has proved, and say so to clients",
        "new": "only what is proved and not published yet, as a pipeline does; the rest is passed over",
        "renew": "publish nothing, sign every suite anew: apt takes a state for current for 30 days",
        "archive": "publish nothing, sign these releases, which are past their end, without one",
        "key-type": "what the key is made of on first use: ed25519 (default) or rsa4096",
        "install": "--no-install: never install missing Debian packages on this machine",
    }
)
def publish(
    context: Context,
    to: str,
    suite: str = "testing",
    release: str | None = None,
    key: str | None = None,
    url: str | None = None,
    unproved: bool = False,
    renew: bool = False,
    new: bool = False,
    archive: str | None = None,
    key_type: str | None = None,
    install: bool = True,
) -> None:
    """Publish what dist/ holds, and a matrix proved, in a signed repository that apt reads."""
    from pgpool_deb.repository import publish as publishing  # noqa: PLC0415 - an unchanged build-deb need not load it

    request = publishing.Request(
        to=Path(to),
        suite=suite,
        releases=plan.parse_releases(release),
        key=key,
        url=url,
        unproved=unproved,
        renew=renew,
        new=new,
        archive=plan.parse_releases(archive),
        key_type=key_type,
        install=install,
    )
    _end(publishing.run(Project(HERE), request, building.say))


@task(
    name="promote",
    help={
        "in": "the folder of the repository",
        "release": "Debian releases, joined by commas (default: all that have a testing suite)",
        "key": "as in publish",
        "install": "--no-install: never install missing Debian packages on this machine",
    },
)
def promote(
    context: Context, in_: str, release: str | None = None, key: str | None = None, install: bool = True
) -> None:
    """Take what a release's testing suite has into its stable one, byte for byte."""
    from pgpool_deb.repository import promote as promoting  # noqa: PLC0415 - an unchanged build-deb need not load it

    request = promoting.Request(Path(in_), plan.parse_releases(release), key, install)
    _end(promoting.run(Project(HERE), request, building.say))


@task(
    help={
        "in": "the folder of the repository",
        "older": "drop snapshots that are older than so many days, too (default: keep all)",
        "yes": "remove what otherwise is only told",
    }
)
def prune(context: Context, in_: str, older: int = 0, yes: bool = False) -> None:
    """Tell which files of a repository neither a suite nor a kept snapshot names; --yes removes them."""
    from pgpool_deb.repository import prune as pruning  # noqa: PLC0415 - an unchanged build-deb need not load it

    _end(pruning.run(pruning.Request(Path(in_), older or None, yes), building.say))


@task(
    name="check-repository",
    help={
        "where": "the folder or the URL of the repository",
        "trial": "in clean roots, have apt install, upgrade and remove every package, too; takes minutes",
        "install": "--no-install: never install missing Debian packages on this machine",
    },
)
def check_repository(context: Context, where: str, trial: bool = False, install: bool = True) -> None:
    """Look at a repository as apt does: signatures, hashes, validity, and every file that is named."""
    from pgpool_deb.repository import check  # noqa: PLC0415 - an unchanged build-deb need not load it

    _end(check.run(where, building.say, project=Project(HERE) if trial else None, install=install))


@task(
    help={
        "what": "a .deb beside its .buildinfo and source package, or a folder of them",
        "mirror": "URI of a Debian mirror (default: that of this machine's apt)",
        "install": "--no-install: never install missing Debian packages on this machine",
    }
)
def verify(context: Context, what: str, mirror: str | None = None, install: bool = True) -> None:
    """Tell where packages are from, link by link; build them again from their sources, and compare every byte."""
    from pgpool_deb import rebuild  # noqa: PLC0415 - an unchanged build-deb need not load it

    _end(rebuild.run(Project(HERE), Path(what), mirror=mirror, install=install))
