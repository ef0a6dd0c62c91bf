"""`./invoke patches` writes patches as mails to upstream that `git am` applies."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.upstream.tarballs import quiet

from pgpool_deb.ground.errors import ExitStatus, UsageError
from pgpool_deb.ground.project import Project
from pgpool_deb.packages import patch_list, patches
from pgpool_deb.packages.patches import Patch
from pgpool_deb.runs import patch_mails

LINES = [f"line {number}" for number in range(1, 31)]
SOURCE = {"configure.ac": "AC_INIT([pgpool-II], [4.6.1])\n", "configure": "", "src/main.c": "\n".join(LINES) + "\n"}


def patch_text(line: int, new: str, *, title: str = "Mend it", forwarded: str = "no") -> str:
    """Return a patch without context that replaces one line of src/main.c."""
    return (
        f"Description: {title}\n It was broken.\n .\n To see it: look.\nX-Without: it is broken\n"
        f"X-Tested-By: tests/x/test_x.py::test_y\nForwarded: {forwarded}\nLast-Update: 2026-11-29\n---\n"
        f"--- a/src/main.c\n+++ b/src/main.c\n@@ -{line} +{line} @@\n-line {line}\n+{new}\n"
    )


def patch(name: str, text: str) -> Patch:
    return Patch(name, text, "w", relied_on=False, description=f"{name} it\n\nTo see it: look.", updated="2026-11-29")


def tarball(path: Path, files: dict[str, str] = SOURCE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"pgpool-II-4.6.1/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


def git(folder: Path, *arguments: str, said: str = "") -> str:
    name = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    command = ["git", *name, *arguments]
    return subprocess.run(command, cwd=folder, input=said, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def upstream(tmp_path: Path) -> Path:
    """Make a repository with the source."""
    folder = tmp_path / "upstream"
    for name, text in SOURCE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "released")
    return folder


def test_git_am_applies_the_mails_in_sequence(tmp_path: Path, upstream: Path) -> None:
    series = [patch("first", patch_text(10, "ten")), patch("second", patch_text(12, "twelve"))]
    written = patch_mails.mails(patches.changes(series, tarball(tmp_path / "pgpool.tar.gz")))
    for name in ("first", "second"):
        git(upstream, "am", "--quiet", said=written[name])
    lines = (upstream / "src" / "main.c").read_text().splitlines()
    assert (lines[9], lines[11]) == ("ten", "twelve")
    shown = git(upstream, "log", "-1", "--format=%an|%ad|%B", "--date=iso-strict").strip()
    assert shown == "pgpool2-cluster maintainers|2026-11-29T12:00:00+00:00|second it\n\nTo see it: look."


def test_a_mail_has_context_a_diffstat_and_earlier_changes(tmp_path: Path) -> None:
    series = [patch("first", patch_text(10, "ten")), patch("second", patch_text(12, "twelve"))]
    mail = patch_mails.mails(patches.changes(series, tarball(tmp_path / "pgpool.tar.gz")))["second"]
    assert mail.startswith("From 0000000000000000000000000000000000000000 ")
    assert "\nSubject: [PATCH] second it\n" in mail
    assert "\nDate: Sun, 29 Nov 2026 12:00:00 +0000\n" in mail
    assert "\n src/main.c | 2 +-\n 1 file changed, 1 insertion(+), 1 deletion(-)\n" in mail
    assert " line 9\n ten\n line 11\n-line 12\n+twelve\n line 13\n line 14\n line 15\n" in mail


def test_patches_not_for_upstream_or_without_a_fit_have_no_mail(tmp_path: Path) -> None:
    debians = Patch("debians", patch_text(10, "ten"), "w", relied_on=False, forwarded="not-needed")
    series = [debians, patch("unfit", patch_text(40, "forty")), patch("ours", patch_text(20, "twenty"))]
    assert patch_mails.mails(patches.changes(series, tarball(tmp_path / "pgpool.tar.gz"))).keys() == {"ours"}


def test_the_users_git_configuration_does_not_change_mails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    series, source = [patch("ours", patch_text(10, "ten"))], tarball(tmp_path / "pgpool.tar.gz")
    first = patch_mails.mails(patches.changes(series, source))
    (tmp_path / "gitconfig").write_text("[format]\nsubjectPrefix = OTHER\nsignature = x\n[diff]\nnoprefix = true\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_AUTHOR_NAME", "somebody else")
    assert patch_mails.mails(patches.changes(series, source)) == first


# --- the command


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Project]:
    """Make a checkout with patches and one pinned version, whose tarball is in the cache by default."""
    monkeypatch.setenv("PGPOOL_DEB_CACHE", str(tmp_path / "cache"))

    def make(texts: dict[str, str], *, cached: bool = True) -> Project:
        path = tarball(tmp_path / "cache" / "sources" / "pgpool2_4.6.1.orig.tar.gz")
        root = tmp_path / "checkout"
        folder = root / "debian-templates" / "pgpool2" / "patches"
        for place in (folder, root / "packaging", root / "docs" / "reference"):
            place.mkdir(parents=True)
        for name, text in texts.items():
            (folder / f"{name}.patch").write_text(text)
        (folder / "series.in").write_text("".join(f"{name}.patch\n" for name in texts))
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        (root / "packaging" / "sources.toml").write_text(
            f'addresses = ["{{mirror}}/x"]\n[pgpool."4.6.1"]\nsha256 = "{sha256}"\n'
            f"size = {path.stat().st_size}\ndate = 2025-05-15\n"
        )
        if not cached:
            path.unlink()
        return Project(root)

    return make


def test_the_command_writes_the_page_and_the_mails_and_leaves_no_old_ones(project: Callable[..., Project]) -> None:
    checkout = project({"ours": patch_text(10, "ten"), "unfit": patch_text(40, "forty")})
    old = checkout.dist / "upstream" / "old.patch"
    old.parent.mkdir(parents=True)
    old.touch()
    lines: list[str] = []
    assert patch_mails.run(checkout, None, install=False, report=lines.append) is ExitStatus.GOOD
    assert [path.name for path in old.parent.iterdir()] == ["ours.patch"]
    assert "[ours](" in (checkout.path / patch_list.PLACE).read_text()
    assert "warning: no mail for unfit.patch, which is not for pgpool-II 4.6.1 or does not apply to it" in lines


def test_a_version_that_is_not_pinned_is_refused(project: Callable[..., Project]) -> None:
    with pytest.raises(UsageError, match=r"4\.9\.9 is not pinned"):
        patch_mails.run(project({"ours": patch_text(10, "ten")}), "4.9.9", install=False, report=quiet)


def test_without_a_tarball_the_hint_is_how_to_download_one(project: Callable[..., Project]) -> None:
    with pytest.raises(UsageError) as raised:
        patch_mails.run(project({"ours": patch_text(10, "ten")}, cached=False), None, install=False, report=quiet)
    assert raised.value.hint == "--pgpool 4.6.1 downloads it"


def test_a_header_without_a_required_field_is_named(project: Callable[..., Project]) -> None:
    checkout = project({"ours": patch_text(10, "ten", forwarded="perhaps")})
    with pytest.raises(UsageError, match=r"ours\.patch: Forwarded must be no") as raised:
        patch_mails.run(checkout, None, install=False, report=quiet)
    assert raised.value.hint == "docs/reference/patches.md lists the fields of a header"
