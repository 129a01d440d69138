"""Data sets of the Hugging Face hub, from a local stand-in."""

from pathlib import Path

import pytest

from data_pipelines.errors import DataError
from data_pipelines.preparation import hub_files
from data_pipelines.preparation.run import prepare
from data_pipelines.storage.records import open_records, read_summary
from tests.data_pipelines import parquet_sets
from tests.data_pipelines.hub_server import REVISION, serve, use


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A hub with `jxie/flickr8k`."""
    folder = parquet_sets.flickr8k(tmp_path / "hub")
    (folder / "README.md").write_text("not downloaded")
    with serve("jxie/flickr8k", folder) as server:
        use(server, tmp_path / "cache", monkeypatch)
        yield server


def test_prepared_from_the_hub_as_from_a_folder(hub, tmp_path: Path) -> None:
    address = "hf://datasets/jxie/flickr8k"
    found = prepare("image_text", tmp_path / "data", address)
    summary = read_summary(found)
    assert summary["origin"] == {"source": address, "revision": REVISION}
    local = read_summary(prepare("image_text", tmp_path / "local", hub.folder))
    assert "origin" not in local
    assert {k: v["fingerprint"] for k, v in summary["splits"].items()} == {
        k: v["fingerprint"] for k, v in local["splits"].items()
    }
    assert len(open_records(tmp_path / "data", "image_text", "train")) == 3
    assert not any("README" in path for _, path, _ in hub.requests)
    count = len(hub.requests)
    assert prepare("image_text", tmp_path / "data", address) == found  # a finished data set does not need the hub
    assert len(hub.requests) == count


def _downloads(hub) -> list[tuple[str, str]]:
    """Name and range of each file that was downloaded."""
    return sorted(
        (Path(path).name, given) for method, path, given in hub.requests if method == "GET" and "resolve" in path
    )


def test_a_broken_connection_continues_within_the_file(hub, monkeypatch: pytest.MonkeyPatch) -> None:
    train = hub.folder / "data" / "train-00000-of-00001.parquet"
    hub.cuts[train] = [5 * 1024]
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1024)  # an incomplete chunk is lost
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the library waits between its attempts
    folder, _ = hub_files.download("hf://datasets/jxie/flickr8k")
    assert (folder / "data" / train.name).read_bytes() == train.read_bytes()
    assert [given for name, given in _downloads(hub) if name == train.name] == ["", "bytes=5120-"]


def test_a_download_that_failed_continues_with_the_missing_files(hub, monkeypatch: pytest.MonkeyPatch) -> None:
    train = hub.folder / "data" / "train-00000-of-00001.parquet"
    hub.cuts[train] = [0] * 20
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(DataError, match=r"cannot be downloaded .*; run the same command again, which continues"):
        hub_files.download("hf://datasets/jxie/flickr8k")
    hub.cuts.clear()
    hub.requests.clear()
    folder, _ = hub_files.download("hf://datasets/jxie/flickr8k")
    assert len(list(folder.rglob("*.parquet"))) == 3
    assert _downloads(hub) == [(train.name, "")]


def test_without_the_hub_the_cache_serves(hub, tmp_path: Path) -> None:
    folder, _ = hub_files.download("hf://datasets/jxie/flickr8k")
    hub.shutdown()
    hub.server_close()
    assert hub_files.download("hf://datasets/jxie/flickr8k") == (
        folder,
        {"source": "hf://datasets/jxie/flickr8k", "revision": REVISION},
    )


def test_revision_and_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's own conversion of `nlphuji/flickr30k` has TEST/test/0000.parquet."""
    folder = parquet_sets.flickr30k(tmp_path / "hub", "TEST/test/{:04d}.parquet")
    parquet_sets.flickr8k(folder / "other")
    with serve("nlphuji/flickr30k", folder, ("refs/convert/parquet",)) as server:
        use(server, tmp_path / "cache", monkeypatch)
        address = "hf://datasets/nlphuji/flickr30k@refs/convert/parquet/TEST"
        summary = read_summary(prepare("image_text", tmp_path / "data", address, options={"split_column": "split"}))
        assert {split: entry["images"] for split, entry in summary["splits"].items()} == {
            "train": 3,
            "val": 1,
            "test": 1,
        }
        assert not any("other" in path for method, path, _ in server.requests if "/resolve/" in path)
        with pytest.raises(DataError, match=r"cannot be downloaded .*; run the same command again"):
            hub_files.download("hf://datasets/nlphuji/flickr30k@missing")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://jxie/flickr8k", r"is not hf://datasets/OWNER/NAME"),
        ("hf://datasets/flickr8k", r"is not hf://datasets/OWNER/NAME"),
        ("hf://datasets/jxie/flickr8k/../x", r"is not hf://datasets/OWNER/NAME"),
        ("hf://datasets/jxie/missing", "cannot be downloaded"),
        ("hf://datasets/jxie/flickr8k/empty", r"has no Parquet files; .*flickr8k@refs/convert/parquet\.$"),
    ],
)
def test_bad_addresses(hub, tmp_path: Path, address: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        prepare("image_text", tmp_path / "data", address)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "data" / "image_text").exists()


def test_wrong_columns_are_refused_before_the_download(hub, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'pixels=image' is not ROLE=COLUMN"):
        prepare("image_text", tmp_path / "data", "hf://datasets/jxie/flickr8k", options={"columns": "pixels=image"})
    assert hub.requests == []


def test_data_sets_without_parquet(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="which flickr8k does not read; prepare image_text, vqa or image_pairs"):
        prepare("flickr8k", tmp_path, "hf://datasets/jxie/flickr8k")
