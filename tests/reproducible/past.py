"""Stand in for Debian's snapshot archive, which tests cannot reach, with only the packages of a folder.

    past.py FOLDER SUITE TIME

debootsnap queries two services over HTTP: one for the time at which the archive had a package in a version, and one for
the archive at that time. This server answers both on port 80 for every host name. FOLDER has the archive's layout.
"""

from __future__ import annotations

import re
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

ASKED = re.compile(r'name="pkgs".*?\r\n\r\n(.*?)\r\n--', re.DOTALL)
WHOLE_URL = re.compile(r"^http://[^/]*")


class Past(SimpleHTTPRequestHandler):
    """Serves FOLDER, and answers for every package that SUITE had it at TIME."""

    def translate_path(self, path: str) -> str:
        """Return the file of a path, or of a complete URL, which proxies receive."""
        return super().translate_path(WHOLE_URL.sub("", path))

    def do_POST(self) -> None:
        """Answer one line per package: name, architecture, version, suite, component, and first and last time."""
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        asked = ASKED.search(body)
        words = [word for word in asked[1].split(",") if word] if asked else []
        lines = []
        for word in words:
            package, version = word.split("=", 1)
            lines.append(f"{package.replace(':', ' ')} {version} {sys.argv[2]} main {sys.argv[3]} {sys.argv[3]}\n")
        answer = "".join(lines).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", 80), partial(Past, directory=sys.argv[1])).serve_forever()
