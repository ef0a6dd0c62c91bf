"""The matrix's report as one static page: no address outside of its folder, no script; for screens and for paper."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, StrictUndefined

from .proof import Proof

TEMPLATE = Path(__file__).with_name("page.html.j2")


def html(proof: Proof) -> str:
    """Return the page; all that tests said is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["duration"] = duration
    states = [str(one.state) for cell in proof.cells for one in cell.stages]
    counts = {state: states.count(state) for state in dict.fromkeys(states)}
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(proof=proof, counts=counts)


def duration(seconds: float) -> str:
    """Return `8 s`, `3 min 20 s` or `1 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
