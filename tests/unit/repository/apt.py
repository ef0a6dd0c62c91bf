"""Run this machine's apt with its own folders, so that it sees one repository and none of the machine's sources."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pgpool_deb.repository import keyring


@dataclass(frozen=True, slots=True)
class Apt:
    """A client that stores its state below `place`."""

    place: Path

    @classmethod
    def new(cls, place: Path, repository: Path, url: str = "", suite: str = "trixie-testing") -> Apt:
        """Return a client without lists, with the current key of the repository."""
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
        """Run apt-get or apt-cache, which must succeed without warnings, and return its output."""
        paths = {
            "Dir::State::lists": "lists", "Dir::Cache": "cache", "Dir::State::status": "status",
            "Dir::Etc::SourceList": "sources.list", "Dir::Etc::SourceParts": "etc", "Dir::Etc": "etc",
        }  # fmt: skip
        options = [word for name, path in paths.items() for word in ("-o", f"{name}={self.place / path}")]
        options += ["-o", "APT::Architecture=amd64", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Languages=none"]
        answer = subprocess.run(
            [program, "-q", *options, *words], capture_output=True, text=True, check=False, cwd=self.place
        )
        report = f"{program} {' '.join(words)}: {answer.returncode}\n{answer.stdout}{answer.stderr}"
        assert answer.returncode == 0, report
        assert not [line for line in answer.stderr.splitlines() if line.startswith(("W:", "E:", "N:"))], report
        return answer.stdout

    def versions(self, package: str) -> set[str]:
        """Update, and return the available versions of a package."""
        self.run("apt-get", "update")
        table = self.run("apt-cache", "madison", package)
        return {line.split("|")[1].strip() for line in table.splitlines() if line.endswith("Packages")}

    def download(self, package: str) -> Path:
        """Download the newest version of a package, and return the path of its file."""
        self.run("apt-get", "download", package)
        (found,) = self.place.glob(f"{package}_*.deb")
        return found
