"""Small crawls: images with different hashes, and WebDataset tar files of them."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_pipelines.web_collection.funnel import Drop, Tally
from data_pipelines.web_collection.samples import Location, WebImage
from tests.data_pipelines.publishers import tar


def image_bytes(seed: int, height: int = 40, width: int = 48, format: str = "PNG") -> bytes:
    """Blocks of noise, so that the hashes of different seeds are far apart."""
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST).save(buffer, format)
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG of a few bytes with a size of 30,000 x 30,000 pixels in its header."""
    encoded = image_bytes(0)
    return encoded[:16] + (30_000).to_bytes(4, "big") * 2 + encoded[24:]


def shard(path: Path, *samples: tuple[bytes, dict[str, Any]]) -> Path:
    """A tar file of images with their .json."""
    members: dict[str, bytes | str] = {}
    for number, (encoded, about) in enumerate(samples):
        suffix = "jpg" if encoded.startswith(b"\xff\xd8") else "png"
        members[f"{number:04d}.{suffix}"] = encoded
        members[f"{number:04d}.json"] = json.dumps(about)
    return tar(path, members)


def image(*texts: str, sha256: str = "a", number: int = 0, **fields: Any) -> WebImage:
    """An image with texts."""
    defaults = {"format": "PNG", "height": 40, "width": 48, "image_hash": 0}
    return WebImage(sha256=sha256, location=Location("0.tar", number), texts=texts, **defaults | fields)


def split(results: Any) -> tuple[list, list[Drop]]:
    """The kept items and the drops of a stage."""
    results = list(results)
    return [r for r in results if not isinstance(r, Drop)], [r for r in results if isinstance(r, Drop)]


def tallies(drops: list[Drop]) -> dict[str, Tally]:
    """The tallies of drops, as in the pipeline."""
    return {
        stage: Tally.total(Tally.of(drop) for drop in drops if drop.stage == stage)
        for stage in {drop.stage for drop in drops}
    }
