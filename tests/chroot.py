"""A Debian system for tests of packages: clean layers below, a layer of changes above, entered by chroot."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pgpool_deb.boxes import roots
from pgpool_deb.ground import namespaces
from pgpool_deb.ground.command import STALL_SECONDS, CommandFailed, Runner

ENVIRONMENT = ("PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=/root", "TERM=dumb")
QUESTION = re.compile(
    r"\([YINODZ/]{5,}\)|\[default=|\[yes/no\]|what (do you want|would you like) to do|(end.of.file|EOF) on stdin",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Answer:
    """The exit status of a script, and its complete output."""

    status: int
    output: str

    @property
    def questions(self) -> list[str]:
        """Lines in which dpkg, ucf or debconf asks the administrator something."""
        return [line for line in self.output.splitlines() if QUESTION.search(line)]


@dataclass(slots=True)
class Chroot:
    """One system. Files outlive a script; processes do not. Without `network`, it has only a loopback of its own."""

    root: roots.Root
    place: Path
    binds: tuple[tuple[Path, str], ...] = ()
    _log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.place.mkdir(parents=True, exist_ok=True)
        self._log = self.place / "log"

    def attempt(
        self, script: str, *, network: bool = False, environment: Iterable[str] = (), stall: float = STALL_SECONDS
    ) -> Answer:
        """Run a shell script as root and return its answer. It is killed after `stall` seconds without a line."""
        lines: list[str] = []
        inside = ["env", "-i", *ENVIRONMENT, "DEBIAN_FRONTEND=noninteractive", *environment, "sh", "-euc", script]
        enter = roots.entering(self.root, self.place, roots.ROOT_USER, self.binds, confined=not network)
        try:
            runner = Runner(self._log, stall=stall, on_line=lines.append)
            runner.run([*namespaces.as_root(confined=not network), *enter, *inside])
        except CommandFailed as failure:
            return Answer(failure.status, "\n".join(lines))
        return Answer(0, "\n".join(lines))

    def run(self, script: str, *, network: bool = False) -> str:
        """Run a shell script as root, which must succeed, and return its output."""
        answer = self.attempt(script, network=network)
        assert answer.status == 0, f"status {answer.status} of: {script}\n{answer.output}"
        return answer.output.strip()

    def attended(self, command: str, patience: int = 180) -> Answer:
        """Run a command at a terminal without any key pressed. It is killed after `patience` seconds."""
        return self.attempt(
            f"status=0; timeout {patience} script -qec '{command}' /dev/null </dev/null >/typescript || status=$?;"
            "tr -d '\\r' </typescript; rm /typescript; exit $status",
            environment=["DEBIAN_FRONTEND=readline"],
        )

    def packed(self, place: Path) -> Path:
        """Write the current system to a tar in the folder `place`: the root of a host whose services start."""
        place.mkdir(exist_ok=True)
        self.binds = (*self.binds, (place, "/image"))
        left_out = " ".join(f"--exclude=.{target}" for _, target in self.binds)
        self.run(f"rm -f /usr/sbin/policy-rc.d; tar -C / --one-file-system {left_out} -cf /image/root.tar .")
        return place / "root.tar"

    def frozen(self) -> roots.Root:
        """Return the current system as a root for other systems. This one must not be used afterwards."""
        return roots.Root(
            self.root.release, self.root.key, (*self.root.layers, self.place / "upper"), self.root.packages
        )

    def remove(self) -> None:
        """Delete the system."""
        namespaces.remove(self.place)
