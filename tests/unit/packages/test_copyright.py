"""In debian/copyright of both source packages, each file has a stanza, and reviewed files have the right one."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.copyright_headers import faults, parsed
from tests.unit.test_static_checks import packages

from pgpool_deb.repository.licences import declared

TEMPLATES = Path(__file__).parents[3] / "debian-templates"
PGPOOL2 = TEMPLATES / "pgpool2" / "copyright"
CLUSTER = TEMPLATES / "pgpool2-cluster" / "copyright"


@pytest.mark.parametrize(
    ("path", "licence", "holder"),
    [
        ("src/main/pgpool_main.c", "pgpool-II", "PgPool Global"),
        ("src/watchdog/watchdog.c", "pgpool-II", "PgPool Global"),
        ("src/libs/pcp/pcp.c", "pgpool-II", "PgPool Global"),
        ("src/sample/pgpool.conf.sample-stream", "pgpool-II", "PgPool Global"),
        ("src/sql/pgpool-recovery/pgpool-recovery.c", "pgpool-II", "PgPool Global"),
        ("src/sql/pgpool_adm/pgpool_adm.c", "PostgreSQL", "PostgreSQL Global"),
        ("src/parser/scan.l", "PostgreSQL", "University of California"),
        ("src/parser/wchar.c", "PostgreSQL", "PostgreSQL Global"),
        ("src/include/parser/unicode_east_asian_fw_table.h", "PostgreSQL", "PostgreSQL Global"),
        ("src/include/parser/pool_parser.h", "pgpool-II", "PgPool Global"),
        ("src/parser/gram.c", "GPL-3+ with Bison exception and PostgreSQL", "Free Software Foundation"),
        ("src/parser/snprintf.c", "BSD-3-clause", "Eric P. Allman"),
        ("src/parser/Makefile.in", "FSFULLR", "Free Software Foundation"),
        ("src/auth/md5.c", "PostgreSQL", "University of California"),
        ("src/auth/auth-scram.c", "pgpool-II and PostgreSQL", "PostgreSQL Global"),
        ("src/utils/pool_ip.c", "pgpool-II and PostgreSQL", "University of California"),
        ("src/utils/mmgr/aset.c", "PostgreSQL", "PostgreSQL Global"),
        ("src/utils/json.c", "BSD-2-clause and pgpool-II", "James McLaughlin"),
        ("src/utils/json_writer.c", "pgpool-II", "PgPool Global"),
        ("src/include/utils/sha2.h", "BSD-3-clause", "Aaron D. Gifford"),
        ("src/utils/strlcpy.c", "ISC", "Todd C. Miller"),
        ("src/utils/getopt_long.c", "BSD-3-clause", "Regents"),
        ("src/tools/pgproto/main.c", "pgpool-II", "Tatsuo Ishii"),
        ("src/tools/pgproto/fe_memutils.c", "PostgreSQL", "PostgreSQL Global"),
        ("doc/src/sgml/legal.sgml", "PostgreSQL", "PgPool Global"),
        ("config.guess", "GPL-3+ with Autoconf exception", "Free Software Foundation"),
        ("ltmain.sh", "GPL-2+ with Libtool exception", "Free Software Foundation"),
        ("install-sh", "X11", "X Consortium"),
        ("debian/rules", "PostgreSQL", "pgpool2-cluster developers"),
        ("debian/patches/no-sudo.patch", "pgpool-II and PostgreSQL", "PgPool Global"),
    ],
)
def test_reviewed_files_have_their_licence_and_holder(path: str, licence: str, holder: str) -> None:
    stanza: Any = parsed(PGPOOL2).find_files_paragraph(path)
    assert stanza.license.synopsis == licence
    assert holder in stanza.copyright


@pytest.mark.parametrize("path", [PGPOOL2, CLUSTER], ids=lambda path: path.parent.name)
def test_every_licence_has_its_text_and_every_text_is_used(path: Path) -> None:
    parsed_file = parsed(path)
    stanzas: list[Any] = [parsed_file.header, *parsed_file.all_files_paragraphs()]
    texts: list[Any] = list(parsed_file.all_license_paragraphs())
    named = {name for one in stanzas if one.license for name in one.license.synopsis.split(" and ")}
    in_debian = set(re.findall(r"/usr/share/common-licenses/([\w.-]+\w)", str(parsed_file.header.comment)))
    assert named == {one.license.synopsis for one in texts} | in_debian
    assert all(one.license.text.strip() for one in texts)


def test_every_file_of_every_source_package_has_a_stanza() -> None:
    for package in packages():
        parsed_file = parsed(TEMPLATES / package.source / "copyright")
        assert [path for path in package.files if parsed_file.find_files_paragraph(path) is None] == []


def test_our_own_files_name_no_other_holder() -> None:
    words = ["git", "ls-files", "-z", "scripts", "config-templates", "debian-templates", "packaging"]
    answer = subprocess.run(words, cwd=TEMPLATES.parent, capture_output=True, text=True, check=True)
    names = answer.stdout.split("\0")
    parsed_file = parsed(CLUSTER)
    texts = {name: (TEMPLATES.parent / name).read_text(errors="replace") for name in names if name}
    own = {name: text for name, text in texts.items() if not name.endswith(("/copyright", ".patch"))}
    assert [line for line in faults(own, parsed_file) if "the pgpool2-cluster developers" not in line] == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("/* Copyright (c) 1999 Another Author */", "src/main/main.c: another author */, unknown to debian/copyright"),
        ("/* Copyright (c) 1996, PostgreSQL Global Development Group */", "src/main/main.c: postgresql global"),
        (" * Redistributions of source code\n * must retain the above", "src/main/main.c: BSD"),
    ],
)
def test_a_file_that_states_more_than_its_stanza_is_reported(text: str, fault: str) -> None:
    (result,) = faults({"src/main/main.c": text}, parsed(PGPOOL2))
    assert result.startswith(fault)


def test_every_declared_licence_except_pgpools_own_is_in_spdx() -> None:
    assert [name for name, _ in declared(PGPOOL2.read_text()).texts] == ["LicenseRef-pgpool-II"]
    result = declared(CLUSTER.read_text())
    assert (str(result.expression), result.texts) == ("Apache-2.0 AND PostgreSQL", ())
