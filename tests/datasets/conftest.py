"""A web server on this machine that misbehaves as it is told; no test asks any other."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):  # noqa: N802 - the library's name
        server: BadServer = self.server.owner
        server.asked.append((self.path, self.headers.get("Range"), self.headers.get("If-Range")))
        fault = server.faults.pop(0) if server.faults else None
        content = server.files.get(self.path)
        if isinstance(fault, int) or content is None:
            self.send_error(fault or 404)
        elif isinstance(fault, tuple) and fault[0] == "redirect":
            self.send_response(302)
            self.send_header("Location", fault[1])
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._send(server, content, fault)

    def _send(self, server, content: bytes, fault) -> None:
        start, wanted = 0, self.headers.get("Range")
        unchanged = self.headers.get("If-Range") in (None, server.tag)
        if wanted and unchanged and fault != "ignore range":
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        if start >= len(content) and start:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            shown = start + 1 if fault == "wrong part" else start
            self.send_header("Content-Range", f"bytes {shown}-{len(content) - 1}/{len(content)}")
        if server.tag:
            self.send_header("ETag", server.tag)
        if fault != "no length":
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        until = start + fault[1] if isinstance(fault, tuple) and fault[0] == "drop after" else len(content)
        self.wfile.write(content[start:until])
        self.close_connection = True

    def log_message(self, *args):
        pass


class BadServer:
    """``files`` by path; every request takes the next of ``faults``: None, a status, ("drop after", bytes),
    ("redirect", where), "ignore range", "wrong part" or "no length". ``asked`` lists (path, Range, If-Range)."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.faults: list = []
        self.asked: list[tuple] = []
        self.tag: str | None = '"one"'
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(monkeypatch):
    """A server, and nearly no patience with it."""
    monkeypatch.setattr("refseg.datasets.obtain.fetch.PAUSES", (0.01, 0.01, 0.01))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = BadServer()
    yield server
    server.close()
