"""The matrix's report in a real browser: Debian's headless chromium, at the widths of a phone and of a desktop."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag

import pytest
from tests.chroot import Chroot

from pgpool_deb.boxes.roots import Roots
from pgpool_deb.ground.command import Runner
from pgpool_deb.ground.project import Project
from pgpool_deb.ground.releases import ReleaseTable
from pgpool_deb.runs import matrix_page
from pgpool_deb.runs.proof import CellResult, Failure, Proof, StageResult, StageState, Worse

pytestmark = pytest.mark.thorough
PACKAGES = ("chromium", "fonts-dejavu-core", "poppler-utils")
WIDTHS = {"phone": 390, "desk": 1280}
LEAST_CONTRAST = 4.5
"""Of text to what is behind it: WCAG 2.2, 1.4.3, level AA."""
MEASURE = """<script>
const colour = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
const light = (rgb) => {
  const [r, g, b] = rgb.map((one) => (one /= 255) <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (one) => {
  const [r, g, b, a = 1] = colour(getComputedStyle(one).backgroundColor);
  return a ? [r, g, b] : one.parentElement ? behind(one.parentElement) : [255, 255, 255];
};
const contrast = (one) => {
  const both = [light(colour(getComputedStyle(one).color).slice(0, 3)), light(behind(one))];
  const [less, more] = both.sort((a, b) => a - b);
  return (more + 0.05) / (less + 0.05);
};
addEventListener("load", () => {
  const words = [...document.body.querySelectorAll("*")].filter((one) =>
    [...one.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim()));
  const worst = words.map((one) => [contrast(one), one.outerHTML.slice(0, 80)]).sort((a, b) => a[0] - b[0])[0];
  parent.postMessage({
    width: innerWidth, ground: behind(document.body), contrast: worst[0], faintest: worst[1],
    beside: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    links: [...document.links].map((one) => one.href),
    names: [...document.querySelectorAll("[id]")].map((one) => one.id),
    taken: [...document.querySelectorAll("[src], object, link:not([href^='data:'])")].map((one) => one.outerHTML),
  }, "*");
});
</script>"""
"""Only in the copy that is measured: the page itself has no script."""
FRAME = """<!DOCTYPE html><title>none</title>
<script>addEventListener("message", (said) => { document.title = JSON.stringify(said.data); });</script>
<iframe src="measured.html" width="WIDTH" height="3000" style="border: 0"></iframe>"""
"""The page in a frame: a window of chromium's is never narrower than 500 px."""
CHROMIUM = (
    "chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --user-data-dir=/tmp/profile "
    "--no-first-run --disable-background-networking --disable-component-update --disable-sync --disable-quic "
    "--virtual-time-budget=2000 --enable-logging=stderr --log-level=0"
)


def report() -> Proof:
    """Return a run with all releases, all states and long words."""
    fault = Failure("test_" + "very_" * 20 + "long_name[pgpool2]", "AssertionError: " + "x" * 300)
    full = Failure("test_three_servers", "MachineError: no space left on the device")
    again = ".venv/bin/python -m pytest tests/package/test_quality.py"
    cells = [
        CellResult(
            f"{name}-amd64-4.6.1",
            name,
            (
                StageResult("build", StageState.PASSED, 44, 1, log=f"logs/{name}-build.log"),
                StageResult("quality", StageState.FAILED, 31, 8, 0, (fault,), f"logs/{name}-quality.log", again),
                StageResult("install", StageState.PASSED, 3575, 59, 2, log=f"logs/{name}-install.log"),
                StageResult("cluster", StageState.BROKEN, 8, 12, 11, (full,), f"logs/{name}-cluster.log")
                if name == "sid"
                else StageResult("cluster", StageState.LEFT_OUT),
            ),
        )
        for name in ("bookworm", "trixie", "forky", "sid")
    ]
    worse = (
        Worse("trixie-amd64-4.6.1", "quality", f"{fault.test}: {fault.reason}"),
        Worse("forky-amd64-4.6.1", "cluster", "left out, passed before"),
    )
    written, before = "2026-11-23T20:00:00+00:00", "2026-11-22T20:00:00+00:00"
    return Proof(written, "Debian GNU/Linux 12 (bookworm), 2 cores", 3700, tuple(cells), worse, before)


@pytest.fixture(scope="module")
def folder(systems: Path) -> Path:
    """Write the report as in dist/, and for each width a page with the report in a frame."""
    folder = systems / "report"
    (folder / "logs").mkdir(parents=True)
    proof = report()
    for log in (one.log for cell in proof.cells for one in cell.stages if one.log):
        (folder / log).write_text("as it went\n")
    (folder / "report.json").write_text(json.dumps(proof.as_json()))
    (folder / "junit.xml").write_text(proof.junit())
    (folder / "index.html").write_text(matrix_page.html(proof))
    (folder / "measured.html").write_text(matrix_page.html(proof).replace("</head>", f"{MEASURE}</head>"))
    for name, width in WIDTHS.items():
        (folder / f"{name}.html").write_text(FRAME.replace("WIDTH", str(width)))
    return folder


@pytest.fixture(scope="module")
def browser(roots: Roots, project: Project, systems: Path, folder: Path) -> Iterator[Chroot]:
    """Make a system of the stable release with chromium and without a network; the report is in /report."""
    root = roots.obtain(ReleaseTable.load(project.releases).stable, PACKAGES, Runner(systems / "browser.log"))
    chroot = Chroot(root, systems / "browser", ((folder, "/report"),))
    yield chroot
    chroot.remove()


@dataclass(frozen=True, slots=True)
class Measured:
    """The page in a browser: `facts` come from MEASURE, `said` is the browser's output."""

    facts: dict[str, Any]
    said: str


LOOKS = [(name, scheme) for name in WIDTHS for scheme in ("light", "dark")]


@pytest.fixture(scope="module", params=LOOKS, ids="-".join)
def measured(browser: Chroot, request: pytest.FixtureRequest) -> Measured:
    """Measure the page at one width in one colour scheme."""
    name, scheme = request.param
    output = browser.run(
        f"{CHROMIUM} --blink-settings=preferredColorScheme={int(scheme == 'light')} --window-size=1400,900 "
        f"--dump-dom file:///report/{name}.html 2>&1"
    )
    result = re.search(r"<title>(\{.*?\})</title>", output)
    assert result, output[-2000:]
    facts = json.loads(html.unescape(result[1]))
    assert facts["width"] == WIDTHS[name]
    assert (facts["ground"] == [255, 255, 255]) == (scheme == "light")
    return Measured(facts, output)


def test_nothing_overflows_the_page(measured: Measured) -> None:
    assert measured.facts["beside"] == 0, "px"


def test_all_text_is_readable(measured: Measured) -> None:
    assert measured.facts["contrast"] >= LEAST_CONTRAST, measured.facts["faintest"]


def test_the_console_stays_silent(measured: Measured) -> None:
    assert [line for line in measured.said.splitlines() if "CONSOLE" in line] == []


def test_a_seeded_console_error_is_detected(browser: Chroot) -> None:
    browser.run("echo '<script>console.error(1)</script>' >/tmp/loud.html")
    assert "CONSOLE" in browser.run(f"{CHROMIUM} --dump-dom file:///tmp/loud.html 2>&1")


def test_every_link_resolves_within_the_folder(measured: Measured, folder: Path) -> None:
    assert measured.facts["taken"] == [], "the page is one file"
    assert len(measured.facts["links"]) > 20
    for link in measured.facts["links"]:
        address, name = urldefrag(link)
        assert address.startswith("file:///report/")
        assert (folder / address.removeprefix("file:///report/")).is_file(), link
        assert not name or name in measured.facts["names"], link


def test_a_screenshot_can_be_taken(browser: Chroot) -> None:
    browser.run(f"{CHROMIUM} --window-size=1280,760 --screenshot=/tmp/page.png file:///report/index.html")
    assert int(browser.run("stat -c %s /tmp/page.png")) > 20_000


def test_the_printed_page_is_complete(browser: Chroot) -> None:
    browser.run(f"{CHROMIUM} --no-pdf-header-footer --print-to-pdf=/tmp/page.pdf file:///report/index.html")
    printed = browser.run("pdftotext -layout /tmp/page.pdf -")
    assert "4 failed, 1 broken" in printed
    for cell in report().cells:
        assert cell.cell in printed
        assert f"logs/{cell.release}-quality.log" in printed
    assert printed.count("x" * 20) >= len(report().cells)
    assert {"\N{CHECK MARK}", "\N{BALLOT X}", "!"} <= set(printed)
