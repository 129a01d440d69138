"""A local stand-in for the Hugging Face hub: what `huggingface_hub` asks for one data set."""

import contextlib
import hashlib
import json
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

REVISION = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves the files of a folder as the repository of a data set.

    Attributes:
      name: OWNER/NAME of the data set.
      folder: its files.
      branches: revisions that exist, besides the hash of the only commit.
      cuts: file -> positions at which the connection breaks in its first downloads.
      requests: method, path and range of each request.
    """

    daemon_threads = True

    def __init__(self, name: str, folder: Path, branches: tuple[str, ...]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.name, self.folder, self.branches = name, folder, (*branches, REVISION)
        self.cuts: dict[Path, list[int]] = {}
        self.requests: list[tuple[str, str, str]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def files(self) -> dict[str, Path]:
        return {str(path.relative_to(self.folder)): path for path in self.folder.rglob("*") if path.is_file()}


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def _answer(self, with_content: bool) -> None:
        hub, path = self.server, urllib.parse.unquote(self.path.partition("?")[0])
        hub.requests.append((self.command, path, self.headers.get("Range", "")))
        api, files = f"/api/datasets/{hub.name}", f"/datasets/{hub.name}/resolve/"
        revision, _, file = path.removeprefix(files).partition("/")
        if path == api or path.removeprefix(f"{api}/revision/") in hub.branches:
            self._send_json(
                {"id": hub.name, "sha": REVISION, "siblings": [{"rfilename": name} for name in hub.files()]}
            )
        elif path.startswith(f"{api}/tree/{REVISION}"):
            entries = [
                {"type": "file", "path": name, "size": path.stat().st_size, "oid": _etag(path)}
                for name, path in hub.files().items()
            ]
            self._send_json(entries)
        elif path.startswith(files) and revision == REVISION and file in hub.files():
            self._send_file(hub.files()[file], with_content)
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RevisionNotFound" if path.startswith(api) else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _send_json(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send_file(self, path: Path, with_content: bool) -> None:
        content, first = path.read_bytes(), 0
        if given := self.headers.get("Range"):
            first = int(given.removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if given else 200)
        if given:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - first))
        self.send_header("ETag", f'"{_etag(path)}"')
        self.send_header("X-Repo-Commit", REVISION)
        self.end_headers()
        if with_content:
            cuts = self.server.cuts.get(path)
            self.wfile.write(content[first : cuts.pop(0) if cuts else None])
            self.close_connection = True


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


@contextlib.contextmanager
def serve(name: str, folder: Path, branches: tuple[str, ...] = ("main",)) -> Iterator[Hub]:
    """A hub that serves `folder`, until the end of the block."""
    hub = Hub(name, folder, branches)
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


def use(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `huggingface_hub` ask this hub, and keep its files in `cache`."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{hub.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
