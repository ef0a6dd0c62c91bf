"""Query systemd for the unit files of services: whether they start at boot, and whether they are masked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..ground import programs
from ..ground.errors import ServerError
from ..ground.programs import ProgramError

_SYSTEMD_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class UnitFile:
    """LoadState, UnitFileState and ActiveState of a unit, from systemctl(1) show."""

    load: str = ""
    file: str = ""
    active: str = ""

    @property
    def masked(self) -> bool:
        """Whether systemd refuses to start it; a unit that was masked while it ran goes on."""
        return "masked" in (self.load, self.file) or self.file == "masked-runtime"

    @property
    def starts_at_boot(self) -> bool:
        """Whether it is enabled permanently."""
        return self.file == "enabled"


def is_running(pattern: str) -> bool:
    """Return whether a unit with such a name runs; raises ServerError without systemd."""
    command = ["systemctl", "list-units", "--plain", "--no-legend", "--state=active,activating", "--", pattern]
    return _systemctl(command) != ""


def _systemctl(command: list[str]) -> str:
    try:
        return programs.run(command, seconds=_SYSTEMD_SECONDS).strip()
    except ProgramError as error:
        hint = "systemctl status shows its state"
        raise ServerError(f"systemd does not answer: {error.reason}", hint=hint) from error


def states(names: Sequence[str]) -> dict[str, UnitFile]:
    """Return the state of each unit by name, in one call of systemctl; raises ServerError without systemd."""
    text = _systemctl(["systemctl", "show", "--property", "Id,LoadState,UnitFileState,ActiveState", "--", *names])
    found = {}
    for block in text.split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        words = (values.get(name, "") for name in ("LoadState", "UnitFileState", "ActiveState"))
        found[values.get("Id", "")] = UnitFile(*words)
    return {name: found.get(name, UnitFile()) for name in names}
