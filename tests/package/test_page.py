"""The matrix' report in a real browser: Debian's chromium, without a screen, at the width of a phone and of a desk."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.chroot import Chroot

from pgpool_deb import page
from pgpool_deb.command import Runner
from pgpool_deb.project import Project
from pgpool_deb.proof import CellResult, Failure, Proof, StageResult, State, Worse
from pgpool_deb.releases import ReleaseTable
from pgpool_deb.roots import Roots

pytestmark = pytest.mark.thorough
WIDTHS = {"phone": 390, "desk": 1440}
MEASURE = """<script>addEventListener("load", () => {
  const page = document.documentElement, body = getComputedStyle(document.body);
  document.title = [innerWidth, page.scrollWidth, body.color, body.backgroundColor].join("|");
});</script>"""
"""Only in the copy that is measured: the page itself has no script."""
CHROMIUM = (
    "chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --user-data-dir=/tmp/profile "
    "--virtual-time-budget=2000 --enable-logging=stderr --log-level=0"
)


def report() -> str:
    """A page with everything on it: all releases, all states, long words."""
    fault = Failure("test_" + "very_" * 20 + "long_name[pgpool2]", "AssertionError: " + "x" * 300)
    cells = [
        CellResult(
            f"{name}-amd64-4.6.1",
            name,
            (
                StageResult("build", State.PASSED, 44, 1, log=f"logs/{name}-build.log"),
                StageResult("quality", State.FAILED, 31, 8, 0, (fault,), f"logs/{name}-quality.log"),
                StageResult("install", State.PASSED, 75, 59, 2, log=f"logs/{name}-install.log"),
                StageResult("cluster", State.BROKEN if name == "sid" else State.LEFT_OUT),
            ),
        )
        for name in ("bookworm", "trixie", "forky", "sid")
    ]
    worse = (Worse("trixie-amd64-4.6.1", "quality", f"{fault.test}: {fault.reason}"),)
    return page.html(Proof("2026-11-23T20:00:00+00:00", "Debian 12, 2 cores", 3700, tuple(cells), worse))


@pytest.fixture(scope="module")
def browser(roots: Roots, project: Project, systems: Path) -> Iterator[Chroot]:
    """A system of the stable release with chromium, and the page in /report, as it is and to be measured."""
    root = roots.obtain(ReleaseTable.load(project.releases).stable, ("chromium",), Runner(systems / "browser.log"))
    folder = systems / "report"
    folder.mkdir()
    (folder / "index.html").write_text(report())
    (folder / "measured.html").write_text(report().replace("</head>", f"{MEASURE}</head>"))
    chroot = Chroot(root, systems / "browser", ((folder, "/report"),))
    yield chroot
    chroot.remove()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_the_console_stays_silent(browser: Chroot, width: str, scheme: str) -> None:
    dark = "--blink-settings=preferredColorScheme=0" if scheme == "dark" else ""
    said = browser.run(
        f"{CHROMIUM} {dark} --window-size={WIDTHS[width]},900 --dump-dom file:///report/measured.html 2>&1"
    )
    found = re.search(r"<title>(\d+)\|(\d+)\|(.*?)\|(.*?)</title>", said)
    assert found, said[-2000:]
    inner, scrolled = int(found[1]), int(found[2])
    assert scrolled <= inner, f"{scrolled - inner} px lie outside of the page"
    assert (found[4] == "rgb(255, 255, 255)") == (scheme == "light"), found[0]
    assert "CONSOLE" not in said, [line for line in said.splitlines() if "CONSOLE" in line]


def test_the_console_would_be_heard(browser: Chroot) -> None:
    browser.run("echo '<script>console.error(1)</script>' >/tmp/loud.html")
    assert "CONSOLE" in browser.run(f"{CHROMIUM} --dump-dom file:///tmp/loud.html 2>&1")


@pytest.mark.parametrize("width", WIDTHS)
def test_it_can_be_seen_and_printed(browser: Chroot, width: str) -> None:
    browser.run(
        f"{CHROMIUM} --window-size={WIDTHS[width]},900 --screenshot=/tmp/{width}.png file:///report/index.html;"
        f"{CHROMIUM} --no-pdf-header-footer --print-to-pdf=/tmp/page.pdf file:///report/index.html"
    )
    assert int(browser.run(f"stat -c %s /tmp/{width}.png")) > 5000
    assert browser.run("head -c 5 /tmp/page.pdf") == "%PDF-"
