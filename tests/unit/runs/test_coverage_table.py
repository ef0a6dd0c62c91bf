"""The table of the unit level's coverage: sums by package, and one line a file."""

from __future__ import annotations

from pgpool_deb.runs import coverage_table


def summary(branches: tuple[int, int], statements: tuple[int, int]) -> dict[str, dict[str, int]]:
    found = {
        "covered_branches": branches[0],
        "num_branches": branches[1],
        "covered_lines": statements[0],
        "num_statements": statements[1],
    }
    return {"summary": found}


def test_packages_are_the_sums_of_their_files() -> None:
    files = {
        "packaging/pgpool_deb/repository/gpg.py": summary((1, 3), (10, 30)),
        "packaging/pgpool_deb/builds/plan.py": summary((4, 4), (8, 8)),
        "scripts/pgpool_cluster/ground/paths.py": summary((0, 0), (7, 7)),
        "scripts/pgpool_cluster/operations/act.py": summary((199, 200), (50, 100)),
    }
    assert coverage_table.lines({"files": files}) == [
        " branches  statements",
        "     99 %        53 %  scripts/pgpool_cluster",
        "        -       100 %    ground/paths.py",
        "     99 %        50 %    operations/act.py",
        "     71 %        47 %  packaging/pgpool_deb",
        "    100 %       100 %    builds/plan.py",
        "     33 %        33 %    repository/gpg.py",
    ]


def test_an_unmeasured_package_has_no_percentage() -> None:
    assert coverage_table.lines({"files": {}})[1].split() == ["-", "-", "scripts/pgpool_cluster"]
