"""A fault in the decisions or in the protocol is noticed, by the simulated clusters or by the unit tests."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.simulation.mutants import MUTANTS, Mutant

PROJECT = Path(__file__).parents[2]
UNIT_TESTS = ("agent", "decision", "ground", "machine", "node", "operations")
MOST_SCHEDULES, PART = 3000, 50


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_noticed(mutant: Mutant, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """The report has the schedule, or the unit test, that noticed the mutant."""
    scripts = made(mutant, tmp_path / "scripts")
    found = schedule_against(scripts) or unit_test_against(scripts)
    record_property("noticed by", found)
    assert found, f"{mutant.name}: {MOST_SCHEDULES} schedules and the unit tests pass"


def test_the_package_without_a_fault_passes(tmp_path: Path) -> None:
    """A failure of the copy itself would notice every mutant."""
    scripts = Path(shutil.copytree(PROJECT / "scripts", tmp_path / "scripts"))
    assert not schedule_against(scripts)
    assert not unit_test_against(scripts)


def made(mutant: Mutant, scripts: Path) -> Path:
    """Copy the package, and put the fault into the copy."""
    shutil.copytree(PROJECT / "scripts", scripts)
    file = scripts / "pgpool_cluster" / mutant.file
    text = file.read_text()
    assert text.count(mutant.old) == 1, f"{mutant.file} has changed: {mutant.old!r}"
    file.write_text(text.replace(mutant.old, mutant.new))
    return scripts


def schedule_against(scripts: Path) -> str:
    """Return the first schedule that breaks an invariant; "" if none does."""
    program = (
        "import sys\n"
        f"sys.path[:0] = [{str(scripts)!r}, {str(PROJECT)!r}]\n"
        "from tests.unit.cluster.simulator import batch\n"
        "from tests.unit.cluster.simulator.hosts import Allowed\n"
        f"for first in range(0, {MOST_SCHEDULES}, {PART}):\n"
        f"    if found := batch.run_part(first, {PART}, Allowed()):\n"
        "        print(found[0])\n"
        "        break\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        return f"the simulator fails: {answer.stderr.splitlines()[-1]}"
    return answer.stdout.strip()


def unit_test_against(scripts: Path) -> str:
    """Return the first unit test that fails; "" if all pass."""
    folders = [f"tests/unit/cluster/{name}" for name in UNIT_TESTS]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n0", "-p", "no:cacheprovider", "--override-ini"]
    answer = subprocess.run(
        [*command, f"pythonpath=. packaging {scripts}", *folders],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    failed = [line for line in answer.stdout.splitlines() if line.startswith("FAILED")]
    return failed[0] if failed else ""
