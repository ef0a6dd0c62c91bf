"""`apt-get install ./*.deb` on a clean root of the release: everything is installed and works."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.built import Built
from tests.chroot import Chroot

from pgpool_deb.boxes.roots import Root


@pytest.fixture(scope="module")
def system(clean: Root, on: Callable[[Root], Chroot], packages: Built) -> Chroot:
    chroot = on(clean)
    answer = chroot.attended(f"apt-get install -y -q {packages.every_deb}")
    assert answer.status == 0, answer.output
    assert answer.questions == []
    return chroot


def test_every_package_is_installed_and_configured(system: Chroot, packages: Built) -> None:
    status = system.run("dpkg-query -W -f '${Package} ${Version} ${Status}\\n' '*pgpool*'").splitlines()
    ours = [name.partition("_")[0] for name in packages.files if name.endswith(".deb")]
    assert sorted(status) == sorted(f"{name} {packages.debian_version} install ok installed" for name in ours)
    assert system.run("dpkg --audit") == ""


def test_pgpool_prints_its_version(system: Chroot, packages: Built) -> None:
    assert system.run("pgpool --version 2>&1").startswith(f"pgpool-II version {packages.version} ")


def test_every_program_finds_its_libraries(system: Chroot) -> None:
    programs = "dpkg -L $(dpkg-query -W -f '${Package} ' '*pgpool*') | grep -E '^/usr/(s?bin/|lib/.*\\.so)' | sort -u"
    found = system.run(f"for file in $({programs}); do [ ! -f $file ] || ldd $file 2>&1 || :; done")
    assert "libpcp" in found or "libpgpoolpcp" in found
    assert "not found" not in found


def test_no_file_is_changed_or_missing(system: Chroot) -> None:
    assert system.run("dpkg --verify $(dpkg-query -W -f '${Package} ' '*pgpool*')") == ""


def in_postgresql(major: int, *statements: str, after: str = ":") -> str:
    """Return a script that runs SQL as superuser in a new cluster of this major, then `after` in its environment."""
    sql = "\n".join(f"{statement};" for statement in statements)
    return f"""
cat >/tmp/statements.sql <<'SQL'
{sql}
SQL
cat >/tmp/in-postgresql <<'SCRIPT'
psql -X -A -t -v ON_ERROR_STOP=1 -f /tmp/statements.sql
{after}
SCRIPT
pg_virtualenv -v {major} sh -eu /tmp/in-postgresql
"""


@pytest.mark.parametrize("extension", ["pgpool_recovery", "pgpool_adm", "pgpool_regclass"])
def test_the_extension_can_be_created_in_every_major(system: Chroot, packages: Built, extension: str) -> None:
    for major in packages.majors:
        installed = "SELECT 'there is ' || extname FROM pg_extension"
        assert f"there is {extension}" in system.run(in_postgresql(major, f"CREATE EXTENSION {extension}", installed))


def test_the_recovery_function_runs_the_recovery_script(system: Chroot, packages: Built) -> None:
    """The C function can be loaded and calls $PGDATA/SCRIPT with its arguments, as in pgpool-II's online recovery."""
    script = "#!/bin/sh\necho called with $# arguments: $2 $4 $5 $6 $7 >/tmp/called\n"
    for major in packages.majors:
        out = system.run(
            in_postgresql(
                major,
                "CREATE EXTENSION pgpool_recovery",
                "SELECT current_setting('data_directory') || '/first_stage' AS script \\gset\n"
                "\\setenv SCRIPT :script\n"
                f"\\! printf '{script!r}' >$SCRIPT; chmod 755 $SCRIPT\n"
                "SELECT pgpool_recovery('first_stage', 'target', '/data', '5432', 3, '5433', 'source')",
                after="cat /tmp/called",
            ).replace(repr(script), script.replace("\n", "\\n"))
        )
        assert "called with 7 arguments: target 5432 3 5433 source" in out.splitlines()


def test_pgpool_adm_tries_to_connect_to_pgpool(system: Chroot, packages: Built) -> None:
    """The library behind pgpool_adm can be loaded; without a pgpool-II, the error is that it cannot be reached."""
    for major in packages.majors:
        asked = "SELECT pcp_node_count('127.0.0.1', 1, 'nobody', 'none')"
        answer = system.attempt(in_postgresql(major, "CREATE EXTENSION pgpool_adm", asked))
        assert answer.status != 0
        assert "connection to PCP server failed" in answer.output
