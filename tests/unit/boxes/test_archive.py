"""Archives come from the machine's own apt configuration, `--mirror`, and a release's row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pgpool_deb.boxes.archive import KEYRING, DebianArchive, find_archive, parse_index_targets
from pgpool_deb.ground.errors import MachineError, UsageError
from pgpool_deb.ground.releases import ExtraSource, ReleaseTable

TABLE = ReleaseTable.load(Path(__file__).parents[3] / "packaging" / "releases.toml")
BOTH = DebianArchive("http://mirror.example/debian", "http://mirror.example/security")


def test_a_named_mirror_wins() -> None:
    assert find_archive("http://mirror.example/debian/") == DebianArchive("http://mirror.example/debian", None)


@pytest.mark.parametrize("mirror", ["mirror.example/debian", "ftp://mirror.example", "", "-o", "http:/one-slash"])
def test_a_mirror_that_is_not_a_uri_is_wrong_usage(mirror: str) -> None:
    with pytest.raises(UsageError, match="is not a URI"):
        find_archive(mirror)


def test_this_machines_apt_names_an_archive() -> None:
    archive = find_archive(None)
    assert "://" in archive.mirror or archive.mirror.startswith(("file:", "copy:"))
    assert not archive.mirror.endswith("/")


def test_debians_archives_are_distinguished_from_others_and_from_each_other() -> None:
    answer = "\n".join(
        [
            "http://vendor.example/apt/|stable|Vendor",
            "http://mirror.example/security/|bookworm-security|Debian",
            "http://mirror.example/debian/|bookworm|Debian",
            "http://second.example/debian/|bookworm|Debian",
        ]
    )
    assert parse_index_targets(answer) == BOTH


def test_a_machine_that_never_updated_its_lists_still_has_an_archive() -> None:
    assert parse_index_targets("http://mirror.example/debian/|trixie|") == replace(BOTH, security=None)


def test_without_debians_archive_the_hint_is_mirror() -> None:
    with pytest.raises(MachineError) as raised:
        parse_index_targets("http://vendor.example/apt/|stable|Vendor")
    assert "--mirror" in raised.value.hint


class Apt:
    """The machine's apt with the test's own sources, and without lists."""

    def __init__(self, place: Path) -> None:
        self.place = place
        for name in ("parts", "lists/partial", "cache"):
            (place / name).mkdir(parents=True)
        lines = (
            f'Dir::Etc::SourceParts "{place}/parts";\nDir::Etc::SourceList "/dev/null";\n'
            f'Dir::State::Lists "{place}/lists";\nDir::Cache "{place}/cache";\n'
        )
        (place / "apt.conf").write_text(lines)

    def archive(self, *sources: str) -> DebianArchive:
        """Return the archive that is found if apt has these stanzas."""
        for number, source in enumerate(sources):
            (self.place / "parts" / f"{number}.sources").write_text(source)
        return find_archive(None)


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Apt:
    made = Apt(tmp_path)
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    return made


def stanza(uris: str, suites: str, components: str = "main", types: str = "deb") -> str:
    return f"Types: {types}\nURIs: {uris}\nSuites: {suites}\nComponents: {components}\n"


DEBIANS = stanza("http://mirror.example/debian/", "trixie trixie-updates")
SECURITY = stanza("http://mirror.example/security", "trixie-security")
VENDORS = (
    stanza("http://vendor.example/linux/debian", "trixie", "stable"),
    stanza("http://other.example/apt", "stable trixie-pgdg"),
    stanza("http://source.example/debian", "trixie trixie-updates", types="deb-src"),
)


def test_a_machine_whose_lists_were_cleaned_still_has_its_archive(apt: Apt) -> None:
    assert apt.archive(*VENDORS, DEBIANS, SECURITY) == BOTH


def test_without_lists_a_single_archive_is_debians_even_without_updates(apt: Apt) -> None:
    assert apt.archive(stanza("http://mirror.example/debian", "sid")) == replace(BOTH, security=None)


def test_without_lists_two_similar_archives_are_an_error(apt: Apt) -> None:
    with pytest.raises(MachineError, match=r"package lists are missing, .*\n.*apt-get update, or .*--mirror"):
        apt.archive(stanza("http://mirror.example/debian", "trixie"), VENDORS[1])


def test_an_archive_of_another_vendor_is_not_debians() -> None:
    addresses = "".join(
        f"'http://{host}/debian/dists/trixie/main/binary-amd64/Packages.xz' {host}_Packages 0 \n"
        for host in ("vendor.example", "mirror.example")
    )
    result = parse_index_targets("http://vendor.example/debian/|trixie|Vendor", lambda: addresses)
    assert result == replace(BOTH, security=None)


def test_one_of_several_addresses_in_a_stanza_is_used(apt: Apt) -> None:
    uris = "http://mirror.example/debian http://second.example/debian"
    result = apt.archive(stanza(uris, "trixie trixie-updates trixie-security"))
    assert result.mirror in uris.split()
    assert result.security in uris.split()


TWO = "http://dead.example/debian|trixie|Debian\nhttp://mirror.example/debian/|trixie|Debian\n"


@pytest.mark.parametrize(
    ("alive", "mirror"),
    [({"mirror"}, "mirror"), ({"dead", "mirror"}, "dead"), (set[str](), "dead")],
    ids=["second", "both", "none"],
)
def test_of_several_addresses_the_first_that_answers_is_used(alive: set[str], mirror: str) -> None:
    asked: list[tuple[str, str]] = []

    def answers(uri: str, suite: str) -> bool:
        asked.append((uri, suite))
        return any(name in uri for name in alive)

    assert parse_index_targets(TWO, answers=answers).mirror == f"http://{mirror}.example/debian"
    assert asked[0] == ("http://dead.example/debian", "trixie")


def test_a_single_address_is_not_probed() -> None:
    def never(uri: str, suite: str) -> bool:
        raise AssertionError((uri, suite))

    assert parse_index_targets(TWO.splitlines()[1], answers=never).mirror == "http://mirror.example/debian"


def test_an_archive_in_a_missing_folder_is_skipped(apt: Apt, tmp_path: Path) -> None:
    (tmp_path / "there/dists/trixie").mkdir(parents=True)
    uris = f"file:{tmp_path}/gone file:{tmp_path}/there"
    assert apt.archive(stanza(uris, "trixie trixie-updates")).mirror == f"file:{tmp_path}/there"


@pytest.mark.parametrize("slashes", ["/", "///"])
def test_a_mirror_list_stands_for_its_first_address_by_priority(apt: Apt, tmp_path: Path, slashes: str) -> None:
    (tmp_path / "list").write_text(
        "# one a line\n\nftp://no.example/debian\thttp://x\nhttp://last.example/debian\n"
        "http://second.example/debian\tpriority:2\nhttp://mirror.example/debian/\tpriority:1 type:deb\n"
    )
    (tmp_path / "security list").write_text("http://mirror.example/security\nhttp://last.example/security\n")
    uri = f"mirror+file:{slashes}{str(tmp_path)[1:]}"
    assert (
        apt.archive(stanza(f"{uri}/list", "trixie trixie-updates"), stanza(f"{uri}/security%20list", "trixie-security"))
        == BOTH
    )


def test_a_missing_mirror_list_is_reported(apt: Apt) -> None:
    with pytest.raises(MachineError, match=r"cannot be read: /no/such/list\n.*--mirror"):
        apt.archive(stanza("mirror+file:///no/such/list", "trixie"))


def test_the_installation_disc_is_skipped() -> None:
    answer = "cdrom://[Debian 13]/|trixie|Debian\nhttp://mirror.example/debian/|trixie|Debian"
    assert parse_index_targets(answer) == replace(BOTH, security=None)


@pytest.mark.parametrize("uri", ["cdrom://[Debian 13]", "mirror+https://lists.example/debian", "tor+http://x.onion"])
def test_an_archive_unusable_for_roots_is_named(uri: str) -> None:
    with pytest.raises(MachineError) as raised:
        parse_index_targets(f"{uri}/|trixie|Debian")
    assert str(raised.value) == f"roots cannot be made from {uri}\nhint: name an archive with --mirror URL"


def test_every_suite_is_a_line_signed_by_debians_keyring() -> None:
    lines = BOTH.sources(TABLE.named("trixie"))
    assert lines == [
        f"deb [signed-by={KEYRING}] http://mirror.example/debian trixie main",
        f"deb [signed-by={KEYRING}] http://mirror.example/debian trixie-updates main",
        f"deb [signed-by={KEYRING}] http://mirror.example/security trixie-security main",
    ]


def test_without_a_security_archive_its_suite_is_left_out() -> None:
    lines = replace(BOTH, security=None).sources(TABLE.named("trixie"))
    assert [line.split()[3] for line in lines] == ["trixie", "trixie-updates"]


def test_a_suite_past_its_valid_until_is_still_verified() -> None:
    (line,) = BOTH.sources(TABLE.named("sid"))
    assert f"signed-by={KEYRING}" in line
    assert "check-valid-until=no" in line
    assert "trusted" not in line


def test_an_archived_release_comes_from_the_archive_its_row_names() -> None:
    old = replace(TABLE.named("trixie"), archive="http://old.example/debian", suites=("trixie",))
    assert BOTH.sources(old) == [f"deb [signed-by={KEYRING}] http://old.example/debian trixie main"]


def test_an_extra_source_adds_a_line_for_each_suite() -> None:
    extra = ExtraSource(
        uri="http://pgdg.example/apt",
        suites=("trixie-pgdg",),
        components=("main", "16"),
        signed_by="/etc/pgdg.asc",
        trusted=False,
        priority=None,
        packages=(),
    )
    from_mirror = replace(extra, uri="mirror", suites=("trixie-backports",), components=("main",), signed_by=None)
    lines = BOTH.sources(replace(TABLE.named("trixie"), extra=(extra, from_mirror)))
    assert lines[-2:] == [
        "deb [signed-by=/etc/pgdg.asc] http://pgdg.example/apt trixie-pgdg main 16",
        f"deb [signed-by={KEYRING}] http://mirror.example/debian trixie-backports main",
    ]
