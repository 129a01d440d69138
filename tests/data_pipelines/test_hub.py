"""Files of a Hugging Face repository if the hub answers, refuses, or does not respond; no network."""

import time
from pathlib import Path

import huggingface_hub
import pytest

from data_pipelines import hub
from data_pipelines.errors import DataError
from data_pipelines.text.tokenizer import SPECIAL, read_vocabulary


@pytest.fixture
def requests(monkeypatch, tmp_path):
    """The requests to the library; a test may change its answers."""
    calls = []

    def download(name, **given):
        calls.append((name, given))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return calls


def fails(monkeypatch, error):
    def model_info(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)


def test_a_hub_that_answers(requests, tmp_path):
    assert hub.snapshot("a/b", ("vocab.txt",)) == tmp_path
    assert requests == [("a/b", {"allow_patterns": ["vocab.txt"]})]


def test_without_the_hub_an_earlier_download_serves(requests, tmp_path, monkeypatch):
    fails(monkeypatch, OSError("no such host"))
    assert hub.snapshot("a/b", ("vocab.txt",)) == tmp_path
    assert requests == [("a/b", {"allow_patterns": ["vocab.txt"], "local_files_only": True})]


def test_the_hubs_own_words_are_kept(monkeypatch):
    def download(name, *, local_files_only, **_):
        raise huggingface_hub.errors.LocalEntryNotFoundError("not in the cache")

    fails(monkeypatch, OSError("no such host"))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(OSError, match="no such host"):
        hub.snapshot("a/b", ())


def test_a_silent_hub_is_waited_for_a_little(requests, monkeypatch):
    def download(name, *, local_files_only, **_):
        raise huggingface_hub.errors.LocalEntryNotFoundError("not in the cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: time.sleep(2))
    assert hub.PATIENCE < 5
    monkeypatch.setattr(hub, "PATIENCE", 0.05)
    start = time.monotonic()
    with pytest.raises(DataError, match=r"'a/b' is neither .* \(the hub does not answer within 0.05 s\)") as error:
        read_vocabulary("a/b")
    assert time.monotonic() - start < 1.5 and "\n" not in str(error.value)


def test_a_vocabulary_of_the_hub(requests, tmp_path: Path):
    (tmp_path / "vocab.txt").write_text("\n".join((*SPECIAL, "a")) + "\n")
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert read_vocabulary("a/b", True) == (*SPECIAL, "a")
    with pytest.raises(DataError, match=r"do_lower_case is true, but data\.lowercase=False"):
        read_vocabulary("a/b", False)
    assert {"vocab.txt", "tokenizer_config.json"} <= set(requests[0][1]["allow_patterns"])
