"""check-repository checks the documents beside each .deb: its bills of materials and the signed statement."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.serving import web
from tests.unit.repository.conftest import FIRST, V1, V2, Publisher
from tests.unit.repository.keys import secret_key

from pgpool_deb.builds.statement import CYCLONEDX, SPDX
from pgpool_deb.ground.errors import ExitStatus
from pgpool_deb.ground.project import Project
from pgpool_deb.repository import check, signing
from pgpool_deb.repository.tree import Repository
from pgpool_deb.runs.small_packages import upload

FOLDER = "pool/main/p/pgpool2"
STATEMENT = f"pgpool2_{V1}_amd64.intoto.json"
BILL = f"pgpool2_{V1}_amd64.cdx.json"
OTHER_BILL = f"libpgpool-dev_{V1}_amd64.cdx.json"


def faults(where: Path | str) -> list[str]:
    """Return the faults that check-repository reports; asserts that it fails if and only if there are any."""
    lines: list[str] = []
    status = check.run(str(where), lines.append, install=False)
    found = [line for line in lines if line.startswith("fault: ")]
    assert status is (ExitStatus.FAILED if found else ExitStatus.GOOD), lines
    assert lines[-1].endswith(f" {len(found)} faults")
    return [line.removeprefix("fault: ") for line in found]


def signed(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    """Change a statement, and sign it with the repository's own key."""
    path = folder / STATEMENT
    statement = json.loads(path.read_text())
    change(statement)
    path.write_text(json.dumps(statement))
    with signing.key(None, FIRST, print) as key:
        (folder / f"{STATEMENT}.asc").write_text(key.signature(path.read_text(), FIRST))


def byproducts(statement: dict[str, object]) -> list[dict[str, object]]:
    return statement["predicate"]["runDetails"]["byproducts"]  # type: ignore[index,no-any-return]


# -- changes that cause one fault each ---------------------------------------------------------------------------------


def a_bill_is_missing(folder: Path) -> None:
    (folder / BILL).unlink()


def a_bill_was_changed(folder: Path) -> None:
    (folder / BILL).write_text((folder / BILL).read_text() + " ")


def a_bill_is_another_debs(folder: Path) -> None:
    shutil.copyfile(folder / OTHER_BILL, folder / BILL)
    sha256 = next(one["digest"] for one in byproducts(json.loads((folder / STATEMENT).read_text()))
                  if one["name"] == OTHER_BILL)  # fmt: skip
    signed(
        folder, lambda statement: [one.update(digest=sha256) for one in byproducts(statement) if one["name"] == BILL]
    )


def a_bill_is_not_named(folder: Path) -> None:
    signed(
        folder,
        lambda statement: byproducts(statement).remove(next(x for x in byproducts(statement) if x["name"] == BILL)),
    )


def a_bill_is_extra(folder: Path) -> None:
    (folder / f"nginx_{V1}_amd64.spdx.json").write_text("{}")


def a_stranger_is_named(folder: Path) -> None:
    signed(folder, lambda statement: byproducts(statement).append({"name": "../x", "digest": {"sha256": "0" * 64}}))


def the_record_was_changed(folder: Path) -> None:
    path = folder / STATEMENT.replace(".intoto.json", ".buildinfo")
    path.write_text(path.read_text() + "\n")


def no_signature(folder: Path) -> None:
    (folder / f"{STATEMENT}.asc").unlink()


def a_signature_of_something_else(folder: Path) -> None:
    cluster = folder.with_name("pgpool2-cluster") / "pgpool2-cluster_0.2.0+deb13+1_amd64.intoto.json.asc"
    shutil.copyfile(cluster, folder / f"{STATEMENT}.asc")


def a_signature_of_a_foreign_key(folder: Path) -> None:
    with signing.key(str(secret_key(folder.parents[4], "foreign")), FIRST, print) as key:
        (folder / f"{STATEMENT}.asc").write_text(key.signature((folder / STATEMENT).read_text(), FIRST))


def the_statement_was_changed(folder: Path) -> None:
    (folder / STATEMENT).write_text((folder / STATEMENT).read_text() + " ")


def another_deb_in_the_statement(folder: Path) -> None:
    def change(statement: dict[str, object]) -> None:
        statement["subject"][0]["digest"]["sha256"] = "0" * 64  # type: ignore[index]

    signed(folder, change)
    for name in (CYCLONEDX, SPDX):  # keeps everything else consistent
        path = folder / f"libpgpool-dev_{V1}_amd64{name}"
        path.write_text(path.read_text() + "0" * 64)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        signed(folder, lambda statement, name=path.name, digest=digest: [  # type: ignore[misc]
            one.update(digest={"sha256": digest}) for one in byproducts(statement) if one["name"] == name])  # fmt: skip


def an_unknown_deb_in_the_statement(folder: Path) -> None:
    """Its documents are named and present, too."""
    names = [f"nginx_1_amd64{suffix}" for suffix in (CYCLONEDX, SPDX)]
    for name in names:
        (folder / name).write_text("0" * 64)
    digest = {"sha256": hashlib.sha256(b"0" * 64).hexdigest()}

    def change(statement: dict[str, list[object]]) -> None:
        statement["subject"].append({"name": "nginx_1_amd64.deb", "digest": {"sha256": "0" * 64}})
        byproducts(statement).extend({"name": name, "digest": digest} for name in names)  # type: ignore[arg-type]

    signed(folder, change)  # type: ignore[arg-type]


def another_source_in_the_statement(folder: Path) -> None:
    def change(statement: dict[str, object]) -> None:
        rows = statement["predicate"]["buildDefinition"]["resolvedDependencies"]  # type: ignore[index]
        next(row for row in rows if row.get("name") == f"pgpool2_{V1}.dsc")["digest"]["sha256"] = "0" * 64

    signed(folder, change)


def no_statement_of_ours(folder: Path) -> None:
    (folder / STATEMENT).write_text("[]")
    signed_text = (folder / STATEMENT).read_text()
    with signing.key(None, FIRST, print) as key:
        (folder / f"{STATEMENT}.asc").write_text(key.signature(signed_text, FIRST))


def a_link_out(folder: Path) -> None:
    (folder / BILL).rename(folder.parents[4] / BILL)
    (folder / BILL).symlink_to(folder.parents[4] / BILL)


def a_pipe(folder: Path) -> None:
    (folder / BILL).unlink()
    os.mkfifo(folder / BILL)


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (a_bill_is_missing, f"{FOLDER}/{BILL} is missing"),
        (a_bill_was_changed, f"{FOLDER}/{BILL} does not match its SHA-256 in {STATEMENT}"),
        (a_bill_is_another_debs, f"{FOLDER}/{BILL} describes another .deb: it lacks the SHA-256 of this one"),
        (a_bill_is_not_named, f"{FOLDER}/{STATEMENT} does not name {BILL}"),
        (a_bill_is_extra, f"{FOLDER}/nginx_{V1}_amd64.spdx.json is extra: no statement names it"),
        (a_stranger_is_named, f"{FOLDER}/{STATEMENT} names ../x, which describes none of its packages"),
        (
            the_record_was_changed,
            f"{FOLDER}/pgpool2_{V1}_amd64.buildinfo does not match its SHA-256 in {STATEMENT}",
        ),
        (no_signature, f"{FOLDER}/{STATEMENT}.asc is missing"),
        (
            a_signature_of_something_else,
            f"{FOLDER}/{STATEMENT}.asc is not a signature of {STATEMENT} by a key in the keyring",
        ),
        (
            a_signature_of_a_foreign_key,
            f"{FOLDER}/{STATEMENT}.asc is not a signature of {STATEMENT} by a key in the keyring",
        ),
        (
            the_statement_was_changed,
            f"{FOLDER}/{STATEMENT}.asc is not a signature of {STATEMENT} by a key in the keyring",
        ),
        (
            another_deb_in_the_statement,
            f"{FOLDER}/{STATEMENT} and Packages have different SHA-256 values of libpgpool-dev_{V1}_amd64.deb",
        ),
        (an_unknown_deb_in_the_statement, f"{FOLDER}/{STATEMENT} names nginx_1_amd64.deb, which is in no suite"),
        (
            another_source_in_the_statement,
            f"{FOLDER}/{STATEMENT} and Sources have different SHA-256 values of pgpool2_{V1}.dsc",
        ),
        (
            no_statement_of_ours,
            f"{FOLDER}/{STATEMENT} is not a valid statement: a required key is missing or malformed",
        ),
        (a_link_out, f"{FOLDER}/{BILL} points outside the repository"),
        (a_pipe, f"{FOLDER}/{BILL} is not a regular file"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_each_tampered_document_is_one_fault(
    published: Publisher, tmp_path: Path, harm: Callable[[Path], None], expected: str
) -> None:
    published()
    harm(tmp_path / "repo" / FOLDER)
    assert faults(tmp_path / "repo") == [expected]


def test_a_deb_without_a_statement_is_named_with_the_documents_that_it_lacks(
    published: Publisher, tmp_path: Path
) -> None:
    published()
    folder = tmp_path / "repo" / FOLDER
    for name in (STATEMENT, f"{STATEMENT}.asc", BILL):
        (folder / name).unlink()
    expected = [
        f"{FOLDER}/libpgpool-dev_{V1}_amd64.deb has no statement: no pgpool2_{V1}_*.intoto.json names it",
        f"{FOLDER}/pgpool2_{V1}_amd64.deb has no statement: no pgpool2_{V1}_*.intoto.json names it",
        f"{FOLDER}/{BILL} is missing",
    ]
    assert faults(tmp_path / "repo") == expected
    with web(tmp_path / "repo") as url:
        assert faults(url) == expected


def test_check_repository_finds_the_same_at_a_url(published: Publisher, checkout: Project, tmp_path: Path) -> None:
    published()
    upload(checkout.dist / "trixie", V2)
    published()
    with web(tmp_path / "repo") as url:
        assert faults(url) == []
        (tmp_path / "repo" / FOLDER / BILL).unlink()
        assert faults(url) == [f"{FOLDER}/{BILL} is missing"]


# -- publish repairs and replaces them ---------------------------------------------------------------------------------


def test_a_statement_without_a_signature_is_written_again_by_the_next_publish(
    published: Publisher, tmp_path: Path
) -> None:
    published()
    a_bill_was_changed(tmp_path / "repo" / FOLDER)
    no_signature(tmp_path / "repo" / FOLDER)
    assert len(faults(tmp_path / "repo")) == 2
    published()
    assert faults(tmp_path / "repo") == []


def test_a_rebuild_after_a_killed_publish_gets_its_own_statement(
    published: Publisher, checkout: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The killed publish left the statement of its packages, which no state names."""
    published()
    upload(checkout.dist / "trixie", V2)
    with monkeypatch.context() as patch:
        patch.setattr(Repository, "writing", killed)
        with pytest.raises(KeyboardInterrupt):
            published()
    assert (tmp_path / "repo" / FOLDER / f"pgpool2_{V2}_amd64.intoto.json.asc").exists()
    assert faults(tmp_path / "repo") == []
    upload(checkout.dist / "trixie", V2, text="another build")
    published()
    assert faults(tmp_path / "repo") == []


def killed(*_: object) -> None:
    """Raise KeyboardInterrupt, as Ctrl-C does."""
    raise KeyboardInterrupt


def test_another_key_signs_the_statements_of_the_old_one_but_no_others(published: Publisher, tmp_path: Path) -> None:
    old, new = (secret_key(tmp_path, name) for name in ("old", "new"))
    published(key=str(old))
    signature = tmp_path / "repo" / FOLDER / f"{STATEMENT}.asc"
    before = signature.read_bytes()
    published(key=f"{old},{new}")
    assert signature.read_bytes() == before
    assert faults(tmp_path / "repo") == []
    cluster = "pool/main/p/pgpool2-cluster/pgpool2-cluster_0.2.0+deb13+1_amd64.intoto.json"
    path = tmp_path / "repo" / cluster
    path.write_text(path.read_text() + " ")
    published(key=str(new))
    assert signature.read_bytes() != before
    assert faults(tmp_path / "repo") == [f"{cluster}.asc is not a signature of {path.name} by a key in the keyring"]
