"""`./invoke gather DIR`: what runs of the matrix on several machines left becomes one dist/, as of one run.

Each folder of DIR is what one of them left of its dist/: `report`, and the packages of its releases. A pipeline runs
one cell a machine, and keeps each one's.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from . import matrix
from .download import sha256_of
from .errors import ExitStatus, UsageError
from .project import Project
from .proof import Proof, merged

REPORT = "report"


def run(project: Project, origin: Path, report: Callable[[str], None]) -> ExitStatus:
    """Fill dist/ and write dist/report; the status is that of all runs together.

    Raises UsageError, and leaves dist/ as it was, where a report is missing or damaged, two have a cell in common, or a
    file is not the one that was tried.
    """
    found = _found(origin)
    try:
        proof = merged(found)
    except ValueError as error:
        raise UsageError(f"{origin}: {error}", hint="one folder for each run, of one pipeline alone") from error
    releases = {cell.release: origin / name for name, one in found.items() for cell in one.cells}
    for cell in proof.cells:
        _refuse_others(releases[cell.release] / cell.release, cell.files)
    project.dist.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=project.dist, prefix=".gather-") as place:
        new = Path(place)
        for name in found:
            shutil.copytree(origin / name / REPORT / "logs", new / REPORT / "logs" / name)
        matrix.write(new / REPORT, proof)
        for release, folder in releases.items():
            if (folder / release).is_dir():
                shutil.copytree(folder / release, new / release)
        for made in sorted(new.iterdir()):
            shutil.rmtree(project.dist / made.name, ignore_errors=True)
            made.rename(project.dist / made.name)
    for line in proof.closing_lines():
        report(line)
    return proof.exit_status


def _found(origin: Path) -> dict[str, Proof]:
    """Return the reports below a folder by the names of theirs."""
    folders = sorted(path for path in origin.iterdir() if path.is_dir()) if origin.is_dir() else []
    if not folders:
        raise UsageError(f"{origin} has no folder of a run", hint=f"DIR/NAME/{REPORT}/report.json is what is read")
    found = {}
    for folder in folders:
        path = folder / REPORT / "report.json"
        try:
            found[folder.name] = Proof.from_json(json.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            hint = "a run that left no report proved nothing: its own log has why"
            raise UsageError(f"{path}: {error.strerror}", hint=hint) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{path} is damaged", hint="./invoke matrix writes it anew") from error
    return found


def _refuse_others(folder: Path, files: Mapping[str, str]) -> None:
    for name, sha256 in files.items():
        path = folder / name
        if "/" in name or path.is_symlink() or not path.is_file() or sha256_of(path) != sha256:
            hint = "gather reports and packages of the same run"
            raise UsageError(f"{path} is missing, or not the file that was tried", hint=hint)
