"""debian/copyright matches the sources of the packages, and the packages contain it."""

from __future__ import annotations

import subprocess
import tarfile

from tests.built import Built
from tests.copyright_headers import faults, parsed

from pgpool_deb.ground.project import Project


def test_debian_copyright_covers_all_statements_of_upstreams_files(packages: Built, project: Project) -> None:
    stanzas = parsed(project.templates("pgpool2") / "copyright")
    texts = {}
    with tarfile.open(packages.one(".orig.tar.gz")) as tar:
        for member in tar:
            stream = tar.extractfile(member) if member.isfile() else None
            if stream is not None:
                texts[member.name.partition("/")[2]] = stream.read().decode(errors="replace")
    assert len(texts) > 1000
    assert list(faults(texts, stanzas)) == []


def test_every_package_has_the_copyright_of_its_source(packages: Built, project: Project) -> None:
    """Packages of debug symbols have a link to their package's file."""
    for source, names in (("pgpool2", packages.files), ("pgpool2-cluster", packages.cluster_files)):
        expected = (project.templates(source) / "copyright").read_bytes()
        for name in names:
            if name.endswith(".deb") and "-dbgsym_" not in name:
                path = f"./usr/share/doc/{name.partition('_')[0]}/copyright"
                fields = subprocess.run(
                    ["dpkg-deb", "--fsys-tarfile", packages.folder / name], capture_output=True, check=True
                )
                words = ["tar", "--extract", "--to-stdout", path]
                result = subprocess.run(words, input=fields.stdout, capture_output=True, check=True)
                assert result.stdout == expected, name
