"""The project's tasks (`./invoke --list`). Each one turns its options into a request for packaging/pgpool_deb."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "packaging"))

from invoke import Context, Exit, task  # noqa: E402

from pgpool_deb.automation import benches  # noqa: E402
from pgpool_deb.builds import plan  # noqa: E402
from pgpool_deb.ground.errors import ExitStatus  # noqa: E402
from pgpool_deb.ground.project import Project  # noqa: E402
from pgpool_deb.runs import build_deb as building  # noqa: E402
from pgpool_deb.runs import testing  # noqa: E402


def _end(status: ExitStatus) -> None:
    if status is not ExitStatus.GOOD:
        raise Exit(code=int(status))


@task(
    name="build-deb",
    help={
        "release": "Debian releases, comma-separated (default: this machine's, else stable)",
        "pg": "PostgreSQL majors, comma-separated (default: all that releases.toml lists)",
        "pgpool": "a pinned version of pgpool-II (default: the newest available)",
        "source": "build this tarball, unpacked tree or git checkout of pgpool-II instead of a pinned version",
        "engine": "auto, docker or chroot",
        "endpoint": "docker contexts or addresses to spread builds over, comma-separated",
        "jobs": "packages to build in parallel (default: the number of cores)",
        "mirror": "URI of a Debian mirror (default: the one this machine's apt uses)",
        "explain": "print what would be built and why, without building it",
        "install": "--no-install: never install missing Debian packages on this machine",
        "stall": "seconds without output after which a step counts as hung",
        "strict": "fail if one of our patches does not fit, instead of building without it",
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
    """Build the .debs of pgpool-II, its recovery function and the cluster package into dist/<release>/."""
    endpoints = plan.parse_endpoints(endpoint)
    request = plan.BuildRequest(
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
        "what": "build, cluster, failover or repository",
        "release": "the Debian release of a cluster's hosts (default: this machine's, else stable)",
        "pairs": "how many times to run each side of a comparison; the bench compares the medians",
        "runs": "failover: how many times to run each case",
        "case": "failover: cases, comma-separated (default: all)",
        "peers": "failover: not supported yet: measure Patroni and pg_auto_failover, too",
        "mode": "bench cluster: streaming_replication or native_replication",
        "scratch": "a folder for the bench's own cache (default: a temporary one)",
    }
)
def bench(
    context: Context,
    what: str,
    pairs: int = 3,
    scratch: str | None = None,
    release: str | None = None,
    mode: str = benches.STREAMING,
    runs: int = 20,
    case: str | None = None,
    peers: bool = False,
) -> None:
    """Measure and compare; print the table and write it to dist/bench/."""
    place = Path(scratch) if scratch else None
    _end(
        benches.run(
            Project(HERE),
            what,
            pairs=pairs,
            scratch=place,
            releases=release,
            mode=mode,
            runs=runs,
            cases=case,
            peers=peers,
        )
    )


@task(
    help={
        "seed": "the first seed; further runs count up (default: a random one, which is printed)",
        "runs": "how many seeds to run",
        "release": "the Debian release of the hosts (default: this machine's, else stable)",
        "mode": "the cluster's mode: streaming_replication, native_replication or snapshot_isolation",
    }
)
def drill(
    context: Context,
    seed: str | None = None,
    runs: int = 10,
    release: str | None = None,
    mode: str = benches.STREAMING,
) -> None:
    """Inject faults into booted hosts while clients write; fail with a counterexample if anything is lost."""
    from pgpool_deb.automation import drill as drilling  # noqa: PLC0415 - an unchanged build-deb need not load it

    _end(drilling.run(Project(HERE), seed=seed, runs=runs, releases=release, mode=mode))


@task(help={"cell": "a failed cell, as named by build-deb: trixie-amd64-4.6.1"})
def shell(context: Context, cell: str) -> None:
    """Open a shell in the root where the build of a cell failed."""
    building.shell(cell)


@task(
    name="test",
    help={
        "level": (
            "unit,package,install,cluster (default) or any of these and simulation, model, upstream, fuzz, reproducible"
        ),
        "release": "Debian releases, comma-separated (default: this machine's and stable)",
        "all": "test every release of releases.toml",
        "install": "--no-install: never install missing Debian packages on this machine",
        "coverage": "print the coverage of each package and file by the unit level",
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
    """Run the tests and write JUnit reports to dist/test-LEVEL.xml."""
    levels = testing.parse_levels(level)
    request = testing.LevelsRequest(levels, plan.parse_releases(release), all, install, coverage)
    _end(testing.run(Project(HERE), request))


@task(
    name="matrix",
    help={
        "release": "Debian releases, comma-separated (default: every row of releases.toml)",
        "stage": "quality,debian,install,cluster,dist-upgrade (default) or any of these and upstream",
        "jobs": "stages to run in parallel (default: the number of cores)",
        "install": "--no-install: never install missing Debian packages on this machine",
    },
)
def run_matrix(
    context: Context, release: str | None = None, stage: str | None = None, jobs: int = 0, install: bool = True
) -> None:
    """Build and prove every cell, and write the report dist/report/index.html."""
    from pgpool_deb.runs import matrix  # noqa: PLC0415 - an unchanged build-deb need not load it

    request = matrix.MatrixRequest(
        plan.parse_releases(release), matrix.parse_stages(stage), jobs or os.cpu_count() or 1, install
    )
    _end(matrix.run(Project(HERE), request))


@task(
    name="gather",
    help={"where": "a folder with one folder for each run, which contains its dist/report and dist/RELEASE"},
)
def gather_runs(context: Context, where: str) -> None:
    """Merge the dist/ folders of matrix runs on several machines into this dist/, as if they were one run."""
    from pgpool_deb.automation import gather  # noqa: PLC0415 - an unchanged build-deb need not load it

    _end(gather.run(Project(HERE), Path(where), building.say))


@task(name="ci", help={"engine": "github or gitlab"})
def write_pipeline(context: Context, engine: str) -> None:
    """Write the pipeline of a CI engine into this checkout, with one job for each release of releases.toml."""
    from pgpool_deb.automation import pipelines  # noqa: PLC0415 - an unchanged build-deb need not load it
    from pgpool_deb.ground.releases import ReleaseTable  # noqa: PLC0415

    project = Project(HERE)
    releases = [release.name for release in ReleaseTable.load(project.releases).releases]
    print(pipelines.write(project.path, engine, releases))


@task(
    name="contents",
    help={
        "release": "Debian releases, comma-separated (default: all in dist/)",
        "accept": "record the contents of dist/ as the expected ones",
    },
)
def compare_contents(context: Context, release: str | None = None, accept: bool = False) -> None:
    """Compare the packages in dist/ with the expected contents in packaging/contents."""
    from pgpool_deb.runs import contents  # noqa: PLC0415 - an unchanged build-deb need not load it

    _end(contents.run(Project(HERE), plan.parse_releases(release), accept=accept))


@task(
    name="patches",
    help={
        "pgpool": "the pinned version to write the mails for (default: the newest whose tarball is in the cache)",
        "install": "--no-install: never install missing Debian packages on this machine",
    },
)
def write_patches(context: Context, pgpool: str | None = None, install: bool = True) -> None:
    """List our patches in docs/reference/patches.md, and write mails to upstream into dist/upstream."""
    from pgpool_deb.runs import patch_mails  # noqa: PLC0415 - an unchanged build-deb need not load it

    _end(patch_mails.run(Project(HERE), pgpool, install=install, report=building.say))


@task(
    help={
        "pgpool": "the upstream release, for example 4.7.4 (default: print the news from upstream and Debian)",
        "open": "commit the news on a branch of their own, ready to be pushed",
        "proved": "mark a pinned release, which the matrix has passed, as proved with today's patches",
        "tarball": "the release's tarball, if it cannot be downloaded",
        "release": "Debian releases to try it on, comma-separated (default: this machine's, else stable)",
        "mirror": "URI of a Debian mirror (default: the one this machine's apt uses)",
        "jobs": "packages to build in parallel (default: the number of cores)",
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
    """Pin a new upstream release if it builds and passes its tests; without --pgpool, print the news from upstream."""
    from pgpool_deb.automation import update as updating  # noqa: PLC0415 - an unchanged build-deb need not load it

    if proved is not None:
        _end(updating.prove(Project(HERE), proved))
        return
    if pgpool is None and not open:
        from pgpool_deb.automation import watch  # noqa: PLC0415 - an unchanged build-deb need not load it
        from pgpool_deb.upstream.pins import Pins  # noqa: PLC0415

        _end(watch.run(Pins.load(Project(HERE).sources), building.say))
        return
    request = updating.UpdateRequest(
        version=pgpool or "",
        tarball=Path(tarball) if tarball else None,
        releases=plan.parse_releases(release),
        mirror=mirror,
        jobs=jobs or os.cpu_count() or 1,
        install=install,
    )
    if open:
        from pgpool_deb.automation import opening  # noqa: PLC0415 - an unchanged build-deb need not load it

        _end(opening.run(Project(HERE), request, building.say))
    else:
        _end(updating.run(Project(HERE), request))


@task(name="release", help={"version": "the new version of pgpool2-cluster and this project, for example 0.3.0"})
def cut_release(context: Context, version: str) -> None:
    """Date the changelog's unreleased changes, set the version, commit and tag; docs/how-to/cut-a-release.md."""
    from datetime import datetime  # noqa: PLC0415

    from pgpool_deb.automation import cut_release as cutting  # noqa: PLC0415 - an unchanged build-deb need not load it

    _end(cutting.run(Project(HERE), version, building.say, today=datetime.now().astimezone().date()))


@task(
    help={
        "to": "the folder of the repository; publish creates it if it is missing",
        "suite": "testing or stable",
        "release": "Debian releases, comma-separated (default: all with packages in dist/)",
        "key": "fingerprints in your gpg keyring, secret key files, or env:NAME (default: a key made on first use)",
        "url": "the address at which clients reach the folder; publish remembers it (default: its file: address)",
        "unproved": "also publish packages that no matrix has proved; the description of the suite lists them",
        "new": "publish only packages that are proved and not yet published, as a pipeline does",
        "renew": "publish nothing; sign every suite again, because apt accepts a signed state for only 30 days",
        "archive": "publish nothing; sign these end-of-life releases without an expiry date",
        "key-type": "the type of a key made on first use: ed25519 (default) or rsa4096",
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
    """Publish the proved packages of dist/ in a signed apt repository."""
    from pgpool_deb.repository import publish as publishing  # noqa: PLC0415 - an unchanged build-deb need not load it

    request = publishing.PublishRequest(
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
        "release": "Debian releases, comma-separated (default: all with a testing suite)",
        "key": "as for publish",
        "install": "--no-install: never install missing Debian packages on this machine",
    },
)
def promote(
    context: Context, in_: str, release: str | None = None, key: str | None = None, install: bool = True
) -> None:
    """Copy the packages of a release's testing suite into its stable suite, byte for byte."""
    from pgpool_deb.repository import promote as promoting  # noqa: PLC0415 - an unchanged build-deb need not load it

    request = promoting.PromoteRequest(Path(in_), plan.parse_releases(release), key, install)
    _end(promoting.run(Project(HERE), request, building.say))


@task(
    help={
        "in": "the folder of the repository",
        "older": "also drop snapshots older than this many days (default: keep all)",
        "yes": "remove the files instead of only listing them",
    }
)
def prune(context: Context, in_: str, older: int = 0, yes: bool = False) -> None:
    """List the files of a repository that neither a suite nor a kept snapshot names; --yes removes them."""
    from pgpool_deb.repository import prune as pruning  # noqa: PLC0415 - an unchanged build-deb need not load it

    _end(pruning.run(pruning.PruneRequest(Path(in_), older or None, yes), building.say))


@task(
    name="check-repository",
    help={
        "where": "the folder or URL of the repository",
        "trial": "also let apt install, upgrade and remove every package in clean roots; takes minutes",
        "install": "--no-install: never install missing Debian packages on this machine",
    },
)
def check_repository(context: Context, where: str, trial: bool = False, install: bool = True) -> None:
    """Check a repository as apt does: its signatures, validity, hashes, and every file that it names."""
    from pgpool_deb.repository import check  # noqa: PLC0415 - an unchanged build-deb need not load it

    _end(check.run(where, building.say, project=Project(HERE) if trial else None, install=install))


@task(
    help={
        "what": "a .deb beside its .buildinfo and source package, or a folder of such files",
        "mirror": "URI of a Debian mirror (default: the one this machine's apt uses)",
        "install": "--no-install: never install missing Debian packages on this machine",
    }
)
def verify(context: Context, what: str, mirror: str | None = None, install: bool = True) -> None:
    """Trace packages to their sources, rebuild them from there, and compare every byte."""
    from pgpool_deb.runs import rebuild  # noqa: PLC0415 - an unchanged build-deb need not load it

    _end(rebuild.run(Project(HERE), Path(what), mirror=mirror, install=install))
