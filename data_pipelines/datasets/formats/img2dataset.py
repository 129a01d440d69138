"""Output of img2dataset with its formats "webdataset" or "files": images with their URLs, captions and states.

00000.tar   or   00000/000000012.jpg, .txt, .json
00000_stats.json
"""

import collections
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.datasets.candidates import FileBytes, Source, fault_of
from data_pipelines.datasets.formats.url_images import is_image
from data_pipelines.datasets.formats.url_rows import Row
from data_pipelines.datasets.formats.webdataset import parse_about, read_samples, texts_of

_SUCCESS = "success"


def find_shards(folder: Path) -> list[Path]:
    """The tar files in a folder."""
    return sorted(folder.glob("*.tar"))


def find_folders(folder: Path) -> list[Path]:
    """The folders of images in a folder; empty unless some image has a .json, which contains its URL."""
    folders = sorted(path for path in folder.iterdir() if path.name.isdigit() and path.is_dir())
    return folders if any(any(path.glob("*.json")) for path in folders) else []


def read_shards(split: str, unused: collections.Counter[str], paths: Sequence[Path]) -> Iterator[Row]:
    """Rows of tar files, in order; `unused` as in `read_samples`. Raises DataError if a file is damaged."""
    for sample in read_samples(paths, unused):
        address = f"{split}/{sample.path.stem}/{sample.key}"
        yield _row(address, sample.about, sample.texts, Source(sample.image, sample.location))


def read_folders(split: str, unused: collections.Counter[str], folders: Sequence[Path]) -> Iterator[Row]:
    """Rows of folders, in order and sorted by name; `unused` becomes suffix -> number of other files."""
    unused.clear()
    for folder in folders:
        images: dict[str, str] = {}
        for name in sorted(path.name for path in folder.iterdir()):
            stem = name.rpartition(".")[0]
            if is_image(name):
                images[stem] = name
            elif name.endswith(".json"):
                images.setdefault(stem, "")
            elif not name.endswith(".txt"):
                unused[Path(name).suffix or "files without a suffix"] += 1
        for stem, name in sorted(images.items()):
            path = folder / name if name else None
            about = parse_about(_content(folder / f"{stem}.json"))
            # The .txt has only texts that are also in the .json, which must be read in any case.
            has_text = any(not fault_of(text) for text in texts_of(None, about))
            text = None if has_text else _content(folder / f"{stem}.txt")
            source = Source(None if path is None else FileBytes(path), str(path or folder / f"{stem}.jpg"))
            yield _row(f"{split}/{folder.name}/{stem}", about, texts_of(text, about), source)


def num_listed(folder: Path, shards: Sequence[Path]) -> int | None:
    """Number of rows in img2dataset's statistics, including failed ones; None if the file of a shard is missing."""
    if not all((folder / f"{shard.stem}_stats.json").exists() for shard in shards):
        return None
    counts = [parse_about(_content(path)).get("count") for path in folder.glob("*_stats.json")]
    return sum(counts) if all(type(count) is int for count in counts) else None


def _row(address: str, about: Mapping[str, Any], texts: Sequence[object], source: Source) -> Row:
    """A row; the image counts as missing if img2dataset reports a failure."""
    url = about.get("url")
    has_url = isinstance(url, str) and bool(url.strip())
    if about.get("status", _SUCCESS) != _SUCCESS:
        source = Source(None, source.location)
    return Row(url.strip() if has_url else address, texts, source, has_url)


def _content(path: Path) -> bytes | None:
    """Content of a file; None if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return None
