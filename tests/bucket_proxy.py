"""A proxy in front of the storage server that does what networks and servers do: it fails, cuts, delays, is away."""

import contextlib
import dataclasses
import http.client
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_HOP = {"connection", "content-length", "keep-alive", "transfer-encoding"}


@dataclasses.dataclass
class Faults:
    """What happens to requests; tests change it while a run goes on. `count` says how often each happened,
    and counts all requests and those for an object's content (`media`).

    Attributes:
      errors: share of answers that are 503 or 429 instead, in half of these cases after the server did what was asked.
      cuts: share of answers whose connection is cut in mid-body.
      delay: seconds before each answer.
      away: connections are closed without an answer.
      refused: methods that get 403.
    """

    errors: float = 0.0
    cuts: float = 0.0
    delay: float = 0.0
    away: bool = False
    refused: tuple[str, ...] = ()
    count: Counter = dataclasses.field(default_factory=Counter)


@contextlib.contextmanager
def bucket_proxy(server: str, seed: int = 0) -> Iterator[tuple[str, Faults]]:
    """The proxy's URL, and its faults: none yet."""
    faults, rng, target = Faults(), random.Random(seed), urlsplit(server).netloc
    finished: dict[str, tuple[int, list[tuple[str, str]], bytes]] = {}  # uploads of several parts

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, status: int, headers: list[tuple[str, str]], body: bytes, length: int | None = None) -> None:
            self.send_response_only(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.end_headers()
            self.wfile.write(body if self.command != "HEAD" else b"")

        def handle_any(self) -> None:
            body = self._body()
            faults.count["requests"] += 1
            faults.count["media"] += "alt=media" in self.path
            time.sleep(faults.delay)
            if faults.away:
                faults.count["away"] += 1
                self.close_connection = True
                return
            if self.command in faults.refused:
                faults.count["refused"] += 1
                self.answer(403, [], b'{"error": {"code": 403, "message": "no permission"}}')
                return
            fails, cut, before = rng.random() < faults.errors, rng.random() < faults.cuts, rng.random() < 0.5
            status, headers, found = (503, [], b"") if fails and before else self._forward(body)
            if fails:
                faults.count["errors"] += 1
                self.answer(rng.choice([503, 429]), [], b'{"error": {"code": 503, "message": "busy"}}')
            elif cut and len(found) > 1:
                faults.count["cuts"] += 1
                self.answer(status, headers, found[: len(found) // 2], len(found))
                self.close_connection = True
            else:
                self.answer(status, headers, found)

        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = handle_any

        def _body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            connection = http.client.HTTPConnection(target, timeout=60)
            sent = {name: value for name, value in self.headers.items() if name.lower() not in {*_HOP, "host"}}
            connection.request(self.command, self.path, body, {**sent, "Host": target})
            found = connection.getresponse()
            content = found.read()
            # An upload of several parts goes on where the server says; that is this proxy again.
            headers = [
                (name, re.sub(rf"http://{re.escape(target)}", url, value))
                for name, value in found.getheaders()
                if name.lower() not in _HOP
            ]
            connection.close()
            if "upload_id=" in self.path:
                # Google answers again if the answer to the last part was lost; this server has forgotten the upload.
                if found.status == 200:
                    finished[self.path] = (found.status, headers, content)
                elif found.status == 404 and self.path in finished:
                    return finished[self.path]
            return found.status, headers, content

        def log_message(self, *_: object) -> None:
            pass

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    proxy.handle_error = lambda *_: None  # a client that was killed
    proxy.daemon_threads = True
    url = f"http://127.0.0.1:{proxy.server_port}"
    thread = threading.Thread(target=proxy.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield url, faults
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()
