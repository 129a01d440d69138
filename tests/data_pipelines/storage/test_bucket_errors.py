"""Errors of a bucket: those that pass are tried again and reported, the others end the call at once."""

import logging

import pytest

from data_pipelines.storage import bucket_errors
from data_pipelines.storage.bucket_errors import as_os_errors, passes, reason, report_tries_of_gcsfs, retried

retry = pytest.importorskip("gcsfs.retry", reason="needs gcsfs")
requests = pytest.importorskip("requests")


def http_error(code):
    return retry.HttpError({"code": code, "message": "no"})


def answer_of_requests(code):
    answer = requests.Response()
    answer.status_code = code
    return requests.HTTPError(f"{code} of requests", response=answer)


def answer_of_s3(code):
    exceptions = pytest.importorskip("botocore.exceptions")
    return exceptions.ClientError({"ResponseMetadata": {"HTTPStatusCode": code}}, "GetObject")


@pytest.fixture
def pauses(monkeypatch):
    """Seconds that were waited, without waiting."""
    clock, slept = [0.0], []

    def sleep(seconds):
        slept.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(bucket_errors.time, "sleep", sleep)
    monkeypatch.setattr(bucket_errors.time, "monotonic", lambda: clock[0])
    return slept


def failing(*errors):
    left = [*errors]

    def call():
        if left:
            raise left.pop(0)
        return "done"

    return call


def test_which_errors_pass():
    assert all(passes(http_error(code)) and passes(answer_of_requests(code)) for code in (408, 429, 500, 503))
    assert not any(passes(http_error(code)) or passes(answer_of_requests(code)) for code in (400, 401, 403, 404))
    assert passes(answer_of_s3(503)) and not passes(answer_of_s3(416))
    assert passes(ConnectionResetError()) and passes(TimeoutError()) and passes(requests.ConnectionError("cut"))
    assert not any(map(passes, (FileNotFoundError("a"), OSError("Forbidden: a"), PermissionError(), ValueError())))


def test_it_is_tried_again_with_longer_pauses_and_each_is_reported(pauses, capsys):
    assert retried(failing(http_error(503), ConnectionResetError("cut"), TimeoutError()), "gs://b/a") == "done"
    assert len(pauses) == 3 and all(0.75 * 2**i <= pause <= 1.25 * 2**i for i, pause in enumerate(pauses))
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(";")[0] for line in lines] == [
        "gs://b/a: no, 503",
        "gs://b/a: cut",
        "gs://b/a: TimeoutError",
    ]


def test_patience_ends(pauses):
    with pytest.raises(OSError, match="no, 503") as caught:
        retried(failing(*[http_error(503)] * 1000), "gs://b/a", patience=100)
    assert isinstance(caught.value.__cause__, retry.HttpError) and 60 <= sum(pauses) <= 100


def test_an_error_that_does_not_pass_is_raised_at_once(pauses):
    for error in (http_error(403), FileNotFoundError("b/a"), OSError("Forbidden: b/a")):
        with pytest.raises(OSError):
            retried(failing(error), "gs://b/a")
    with pytest.raises(KeyError):  # one of our own
        retried(failing(KeyError("a")), "gs://b/a")
    assert not pauses


def test_errors_of_libraries_are_os_errors():
    with pytest.raises(OSError, match=r"^no, 401$"), as_os_errors():
        raise http_error(401)
    with pytest.raises(ValueError), as_os_errors():
        raise ValueError
    assert reason(FileNotFoundError("http://long")) == "not found; was the object or the bucket deleted?"
    assert reason(FileNotFoundError(2, "No such file or directory")) == "No such file or directory"


def test_what_gcsfs_tries_again_itself_is_reported(capsys, monkeypatch):
    log = logging.getLogger("gcsfs")
    monkeypatch.setattr(log, "handlers", [])
    for name in ("level", "propagate"):
        monkeypatch.setattr(log, name, getattr(log, name))
    report_tries_of_gcsfs()
    log.debug("_request retrying after exception: no, 503")
    log.debug("GET: b/a")
    log.warning("anything else")
    assert capsys.readouterr().err == "gcsfs: request: no, 503; another try\n"
