"""Bad tarballs are refused before they are unpacked, and equal trees give equal bytes."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgpool_deb.ground.errors import MachineError, UsageError
from pgpool_deb.upstream import tarball

AC = b"AC_INIT([pgpool-II], [4.6.1])\n"
Member = tuple[str, bytes, str | bytes]
FOLDER, FILE, LINK, HARD = tarfile.DIRTYPE, tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
GOOD: list[Member] = [
    ("top", FOLDER, ""),
    ("top/configure.ac", FILE, AC),
    ("top/src", FOLDER, ""),
    ("top/src/main.c", FILE, b"int main;\n"),
    ("top/src/link.c", LINK, "main.c"),
    ("top/src/up", LINK, "../configure.ac"),
    ("top/src/hard", HARD, "top/src/main.c"),
]


def packed(path: Path, members: list[Member], compress: Callable[[bytes], bytes] = gzip.compress) -> Path:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for name, kind, value in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            info.mtime = 1_700_000_000
            if isinstance(value, bytes):
                info.size = len(value)
            else:
                info.linkname = value
            archive.addfile(info, io.BytesIO(value) if isinstance(value, bytes) else None)
    path.write_bytes(compress(plain.getvalue()))
    return path


@pytest.mark.parametrize(("compress", "suffix"), [(gzip.compress, "gz"), (bz2.compress, "bz2"), (lzma.compress, "xz")])
def test_the_contents_of_a_good_tarball_are_returned(
    tmp_path: Path, compress: Callable[[bytes], bytes], suffix: str
) -> None:
    path = packed(tmp_path / "any name", GOOD, compress)
    contents = tarball.check(path, ["configure.ac", "configure"])
    assert contents == tarball.Contents("top", 1_700_000_000, None, {"configure.ac": AC.decode()})
    assert tarball.suffix(path) == suffix


def test_names_may_start_with_a_dot(tmp_path: Path) -> None:
    members = [(f"./{name}", kind, value) for name, kind, value in GOOD[:4]]
    assert tarball.check(packed(tmp_path / "t", [("./", FOLDER, ""), *members])).top == "top"


@pytest.mark.parametrize(
    ("bad", "output"),
    [
        (("/etc/passwd", FILE, b"x"), "'/etc/passwd' is absolute"),
        (("top/../../x", FILE, b"x"), "'top/../../x' contains '..'"),
        (("../x", FILE, b"x"), "'../x' contains '..'"),
        (("top/..", FOLDER, ""), "'top/..' contains '..'"),
        (("other/x", FILE, b"x"), "more than one top directory: 'other' and 'top'"),
        (("x", FILE, b"x"), "more than one top directory"),
        (("top/a\nb", FILE, b"x"), r"'top/a\nb' contains control characters"),
        (("top/l", LINK, "/etc/passwd"), "link 'top/l' points outside: '/etc/passwd'"),
        (("top/l", LINK, "../x"), "link 'top/l' points outside: '../x'"),
        (("top/src/l", LINK, "../../x"), "link 'top/src/l' points outside: '../../x'"),
        (("top/src/l", LINK, ".././../x"), "points outside"),
        (("top/src/l", LINK, "deep/../../../x"), "points outside"),
        (("top/h", HARD, "/etc/passwd"), "'/etc/passwd' is absolute"),
        (("top/h", HARD, "top/../../x"), "contains '..'"),
        (("top/h", HARD, "other/x"), "hard link 'top/h' points outside: 'other/x'"),
        (("top/dev", tarfile.CHRTYPE, ""), "'top/dev' is neither a file, a folder nor a link"),
        (("top/dev", tarfile.BLKTYPE, ""), "'top/dev' is neither"),
        (("top/fifo", tarfile.FIFOTYPE, ""), "'top/fifo' is neither"),
    ],
)
def test_a_bad_entry_is_named_and_nothing_is_unpacked(tmp_path: Path, bad: Member, output: str) -> None:
    path = packed(tmp_path / "t.tar.gz", [*GOOD, bad])
    with pytest.raises(UsageError) as caught:
        tarball.check(path)
    assert caught.value.message.startswith(f"{path}: ")
    assert output in caught.value.message
    assert "\n" not in caught.value.message
    assert list(tmp_path.iterdir()) == [path]


def test_an_entry_through_a_link_is_refused(tmp_path: Path) -> None:
    # s itself is inside, and so is ../.. from its own folder; ../.. from its target is outside.
    members: list[Member] = [*GOOD, ("top/s", LINK, "src"), ("top/s/x", FILE, b"x")]
    with pytest.raises(UsageError, match="'top/s/x' passes through the link 'top/s'"):
        tarball.check(packed(tmp_path / "t", members))


def test_a_single_file_is_not_a_top_directory(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'x' is outside a top directory"):
        tarball.check(packed(tmp_path / "t", [("x", FILE, b"x")]))


def test_an_empty_tarball_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it is empty"):
        tarball.check(packed(tmp_path / "t", []))


def test_a_tarball_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tarball, "MAX_UNPACKED_BYTES", 10 << 20)
    with pytest.raises(UsageError, match="unpacks to more than 10 MiB"):
        tarball.check(packed(tmp_path / "t", [*GOOD, ("top/zero", FILE, bytes(11 << 20))]))


@pytest.mark.parametrize("content", [b"", b"x", b"PK\x03\x04", b"<html></html>"])
def test_a_file_that_is_not_a_tarball_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.tar.gz").write_bytes(content)
    with pytest.raises(UsageError, match="not a tarball compressed with gzip, xz or bzip2"):
        tarball.check(tmp_path / "t.tar.gz")


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_truncated_tarball_is_refused(tmp_path: Path, compress: Callable[[bytes], bytes], share: float) -> None:
    path = packed(tmp_path / "t", [*GOOD, ("top/noise", FILE, os.urandom(100_000))], compress)
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(UsageError, match="truncated or damaged"):
        tarball.check(path)


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_a_damaged_tarball_is_refused(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    path = packed(tmp_path / "t", [*GOOD, ("top/noise", FILE, os.urandom(100_000))], compress)
    data = bytearray(path.read_bytes())
    data[60_000] ^= 0xFF
    path.write_bytes(data)
    # bzip2 returns the content of a block before it verifies the block's checksum.
    with pytest.raises(UsageError, match=r"truncated or damaged|header of an entry is malformed"):
        tarball.check(path)


@pytest.mark.parametrize("cut", [512, 700, 1024, 1600, 3000])
def test_an_archive_truncated_before_compression_is_refused(tmp_path: Path, cut: int) -> None:
    path = packed(tmp_path / "t", [("top", FOLDER, ""), ("top/a", FILE, b"x" * 3000), ("top/b", FILE, b"x")])
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:cut]))
    if cut == 512:  # ends cleanly after the first entry, so even tar considers it complete
        assert tarball.check(path).texts == {}
        return
    with pytest.raises(UsageError):
        tarball.check(path)


def test_a_malformed_header_is_not_the_end_of_the_archive(tmp_path: Path) -> None:
    path = packed(tmp_path / "t", GOOD)
    data = bytearray(gzip.decompress(path.read_bytes()))
    data[512:520] = b"garbage!"  # the second header; its checksum is wrong now
    path.write_bytes(gzip.compress(data))
    with pytest.raises(UsageError, match="header of an entry is malformed"):
        tarball.check(path)


def test_data_after_the_end_is_not_ignored(tmp_path: Path) -> None:
    path = packed(tmp_path / "t", GOOD)
    path.write_bytes(path.read_bytes() + gzip.compress(b"x" * 512))
    with pytest.raises(UsageError, match="unreadable data after its last entry"):
        tarball.check(path)


def test_the_caller_chooses_the_error_for_a_bad_tarball(tmp_path: Path) -> None:
    path = packed(tmp_path / "t", [("/x", FILE, b"")])
    with pytest.raises(MachineError):
        tarball.check(path, refusal=MachineError)


def test_a_git_archive_contains_its_commit(tmp_path: Path) -> None:
    plain = io.BytesIO()
    with tarfile.open(
        fileobj=plain, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "0123456789" * 4}
    ) as archive:
        archive.addfile(tarfile.TarInfo("top/x"))
    (tmp_path / "t").write_bytes(gzip.compress(plain.getvalue()))
    assert tarball.check(tmp_path / "t").commit == "0123456789" * 4


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "src" / "empty").mkdir(parents=True)
    (root / "configure.ac").write_bytes(AC)
    (root / "src" / "main.c").write_text("int main;\n")
    (root / "src" / "run.sh").write_text("#!/bin/sh\n")
    (root / "src" / "run.sh").chmod(0o700)
    (root / "src" / "link").symlink_to("../configure.ac")
    for folder in (".git", "src/.svn", ".pc"):
        (root / folder).mkdir()
        (root / folder / "secret").touch()
    return root


def written(root: Path, destination: Path, date: int = 1_700_000_000) -> bytes:
    tarball.write(tarball.tree(root), "pgpool2-1", date, destination)
    return destination.read_bytes()


def test_a_written_tarball_is_complete_and_valid(root: Path, tmp_path: Path) -> None:
    written(root, tmp_path / "t.tar.gz")
    assert tarball.check(tmp_path / "t.tar.gz", ["configure.ac"]) == tarball.Contents(
        "pgpool2-1", 1_700_000_000, None, {"configure.ac": AC.decode()}
    )
    with tarfile.open(tmp_path / "t.tar.gz") as archive:
        members = {member.name: member for member in archive}
        assert list(members) == [
            "pgpool2-1",
            *(
                f"pgpool2-1/{name}"
                for name in ("configure.ac", "src", "src/empty", "src/link", "src/main.c", "src/run.sh")
            ),
        ]
        assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in members.values()} == {(0, 0, "", "", 1_700_000_000)}
        assert members["pgpool2-1/src/run.sh"].mode == 0o755
        assert members["pgpool2-1/src/main.c"].mode == 0o644
        assert members["pgpool2-1/src/link"].linkname == "../configure.ac"


def test_equal_trees_give_equal_bytes_whatever_their_times_modes_and_place(root: Path, tmp_path: Path) -> None:
    first = written(root, tmp_path / "one.tar.gz")
    copy = tmp_path / "elsewhere" / "copy"
    shutil.copytree(root, copy, symlinks=True)
    for path in copy.rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)
    (copy / "src" / "main.c").chmod(0o600)
    time.sleep(1.01)  # gzip's header has seconds
    assert written(copy, tmp_path / "other name.tar.gz") == first


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "src" / "main.c").write_text("int moon;\n"),
        lambda root: (root / "src" / "main.c").rename(root / "src" / "moon.c"),
        lambda root: (root / "src" / "main.c").chmod(0o755),
        lambda root: (root / "src" / "empty").rmdir(),
        lambda root: (root / "src" / "new").touch(),
        lambda root: ((root / "src" / "link").unlink(), (root / "src" / "link").symlink_to("main.c")),
    ],
)
def test_every_change_of_content_changes_the_digest(root: Path, change: Callable[[Path], object]) -> None:
    before = tarball.digest(tarball.tree(root))
    change(root)
    assert tarball.digest(tarball.tree(root)) != before


def test_left_out_folders_do_not_count(root: Path) -> None:
    before = tarball.digest(tarball.tree(root))
    (root / ".git" / "index").touch()
    os.utime(root / "configure.ac")
    assert tarball.digest(tarball.tree(root)) == before


def test_the_writer_returns_the_digest_of_what_it_wrote(root: Path, tmp_path: Path) -> None:
    entries = tarball.tree(root)
    assert tarball.write(entries, "t", 0, tmp_path / "t.tar.gz") == tarball.digest(entries)
    (root / "configure.ac").write_text("changed meanwhile")
    assert tarball.write(entries, "t", 0, tmp_path / "u.tar.gz") != tarball.digest(tarball.tree(root, ["src/main.c"]))


def test_only_named_files_and_their_folders_are_packed(root: Path) -> None:
    assert [entry.name for entry in tarball.tree(root, ["src/main.c", "configure.ac"])] == [
        "configure.ac",
        "src",
        "src/main.c",
    ]


def test_a_link_out_of_the_tree_is_refused(root: Path) -> None:
    (root / "out").symlink_to("../../etc/passwd")
    with pytest.raises(UsageError, match="link 'out' points outside"):
        tarball.tree(root)


def test_a_socket_in_a_source_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind("socket")
        with pytest.raises(UsageError, match="'socket' is neither"):
            tarball.tree(root)


def test_a_vanished_file_is_named(root: Path, tmp_path: Path) -> None:
    entries = tarball.tree(root)
    (root / "src" / "main.c").unlink()
    with pytest.raises(UsageError, match=r"main\.c cannot be read: No such file"):
        tarball.write(entries, "t", 0, tmp_path / "t.tar.gz")
    assert {path.name for path in tmp_path.iterdir()} == {"tree"}


def test_a_place_that_cannot_be_written_is_the_machines_fault(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match="cannot be written"):
        tarball.write(tarball.tree(root), "t", 0, tmp_path / "file" / "t.tar.gz")


names = st.text("abcXYZ-_.ü", min_size=1, max_size=120).filter(lambda name: name.strip(".") and name not in ("CVS",))


@settings(max_examples=40, deadline=None)
@given(files=st.dictionaries(names, st.binary(max_size=2000), min_size=1, max_size=8), date=st.integers(0, 2**32))
def test_any_tree_survives_the_round_trip(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], date: int
) -> None:
    root = tmp_path_factory.mktemp("tree")
    for name, data in reversed(files.items()):
        (root / name).write_bytes(data)
    path = tmp_path_factory.mktemp("out") / "t.tar.gz"
    tarball.write(tarball.tree(root), "top", date, path)
    assert tarball.check(path).newest == date
    with tarfile.open(path) as archive:
        result = {member.name: archive.extractfile(member) for member in archive if member.isreg()}
        assert {name: handle.read() for name, handle in result.items() if handle} == {
            f"top/{name}": data for name, data in files.items()
        }


def test_tar_itself_unpacks_it(root: Path, tmp_path: Path) -> None:
    written(root, tmp_path / "t.tar.gz")
    subprocess.run(["tar", "-xzf", tmp_path / "t.tar.gz", "-C", tmp_path], check=True)
    assert tarball.digest(tarball.tree(tmp_path / "pgpool2-1")) == tarball.digest(tarball.tree(root))
