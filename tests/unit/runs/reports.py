"""Write the results of a matrix run to dist/: small packages, a report that names them, and logs."""

from __future__ import annotations

from pathlib import Path

from pgpool_deb.runs import matrix
from pgpool_deb.runs.proof import CellResult, Failure, Proof, StageResult, StageState
from pgpool_deb.runs.small_packages import upload
from pgpool_deb.upstream.download import sha256_of


def run_of(dist: Path, release: str, version: str, last: StageState = StageState.PASSED) -> None:
    """Write the dist/ of a run that built one release and passed all stages except perhaps the last."""
    upload(dist / release, version)
    (dist / "report" / "logs").mkdir(parents=True, exist_ok=True)
    stages = []
    for name in matrix.PROOF:
        log = f"logs/{release}-{name}.log"
        (dist / "report" / log).write_text(f"{release} {name}\n")
        stages.append(StageResult(name, StageState.PASSED, 2.0, 3, 1, (), log, f"again {name}"))
    if last is not StageState.PASSED:
        stages[-1] = StageResult(
            matrix.PROOF[-1], last, failures=(Failure("test_it", "it failed"),), log=stages[-1].log
        )
    files = {path.name: sha256_of(path) for path in sorted((dist / release).iterdir())}
    cell = CellResult(f"{release}-amd64-{version.partition('-')[0]}", release, tuple(stages), files)
    matrix.write(dist / "report", Proof("2026-11-30T06:00:00+00:00", "Debian, 2 cores", 60.0, (cell,)))
