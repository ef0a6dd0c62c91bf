"""This machine's apt with folders of its own: it sees one repository and nothing of the machine."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pgpool_deb.repository import keyring


@dataclass(frozen=True, slots=True)
class Apt:
    """A client whose state is below `place`."""

    place: Path

    @classmethod
    def new(cls, place: Path, repository: Path, url: str = "", suite: str = "trixie-testing") -> Apt:
        """Return a client that knows nothing yet, and has the key of the repository as it is now."""
        shutil.rmtree(place, ignore_errors=True)
        for name in ("lists/partial", "cache/archives/partial", "etc/preferences.d"):
            (place / name).mkdir(parents=True)
        (place / "status").touch()
        key = shutil.copyfile(repository / "keyring" / f"{keyring.NAME}.gpg", place / "key.gpg")
        where = url or f"file://{repository}"
        (place / "sources.list").write_text(
            f"deb [signed-by={key} arch=amd64] {where} {suite} main\n", encoding="utf-8"
        )
        return cls(place)

    def run(self, program: str, *words: str) -> str:
        """Run apt-get or apt-cache, which must succeed and have nothing to warn of; returns what it prints."""
        paths = {
            "Dir::State::lists": "lists", "Dir::Cache": "cache", "Dir::State::status": "status",
            "Dir::Etc::SourceList": "sources.list", "Dir::Etc::SourceParts": "etc", "Dir::Etc": "etc",
        }  # fmt: skip
        options = [word for name, path in paths.items() for word in ("-o", f"{name}={self.place / path}")]
        options += ["-o", "APT::Architecture=amd64", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Languages=none"]
        answer = subprocess.run(
            [program, "-q", *options, *words], capture_output=True, text=True, check=False, cwd=self.place
        )
        said = f"{program} {' '.join(words)}: {answer.returncode}\n{answer.stdout}{answer.stderr}"
        assert answer.returncode == 0, said
        assert not [line for line in answer.stderr.splitlines() if line.startswith(("W:", "E:", "N:"))], said
        return answer.stdout

    def versions(self, package: str) -> set[str]:
        """Return the versions of a package that there are, after an update."""
        self.run("apt-get", "update")
        told = self.run("apt-cache", "madison", package)
        return {line.split("|")[1].strip() for line in told.splitlines() if line.endswith("Packages")}

    def download(self, package: str) -> Path:
        """Fetch the newest version of a package, and return where it lies."""
        self.run("apt-get", "download", package)
        (found,) = self.place.glob(f"{package}_*.deb")
        return found
