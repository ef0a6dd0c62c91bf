"""Stands in for Debian's archive of the past, which tests do not reach: it has the packages of a folder, and no other.

    past.py FOLDER SUITE TIME

debootsnap asks two services over http: which moment of the archive has a package in which version, and that moment of
the archive. Both answers are given on port 80, whatever the host is called. FOLDER is laid out as the archive is.
"""

from __future__ import annotations

import re
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

ASKED = re.compile(r'name="pkgs".*?\r\n\r\n(.*?)\r\n--', re.DOTALL)
WHOLE_URL = re.compile(r"^http://[^/]*")


class Past(SimpleHTTPRequestHandler):
    """Serves FOLDER, and says of every package that SUITE had it at TIME."""

    def translate_path(self, path: str) -> str:
        """Return the file of a path, or of a whole URL, as a proxy is asked."""
        return super().translate_path(WHOLE_URL.sub("", path))

    def do_POST(self) -> None:
        """Answer one line a package: name, architecture, version, suite, component, begin and end of the time."""
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
