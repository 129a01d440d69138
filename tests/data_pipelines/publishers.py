"""Tiny data sets in their publishers' layouts, written into a temporary folder."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def encode(height: int = 12, width: int = 16, format: str = "JPEG", mode: str = "RGB", seed=0) -> bytes:
    """An encoded picture of smooth noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    picture = Image.fromarray(pixels).resize((width, height)).convert(mode)
    buffer = io.BytesIO()
    picture.save(buffer, format)
    return buffer.getvalue()


def write_image(path: Path, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(**options))
    return path


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def sentences(*texts: str) -> list[dict]:
    return [{"raw": text, "tokens": text.split()} for text in texts]


def coco(folder: Path, *, year: str = "2017", train=(1, 2, 3), val=(4, 5)) -> Path:
    """Official layout: folders of images and captions_*.json; two captions an image."""
    for split, ids in {"train": train, "val": val}.items():
        prefix = f"COCO_{split}2014_" if year == "2014" else ""
        names = {i: f"{prefix}{i:012d}.jpg" for i in ids}
        for i, name in names.items():
            write_image(folder / f"{split}{year}" / name, width=16 + i, seed=i)
        content = {
            "images": [{"id": i, "file_name": name} for i, name in names.items()],
            "annotations": [
                {"id": 10 * i + k, "image_id": i, "caption": f"caption {k} of  {i} \n"} for k in range(2) for i in ids
            ],
        }
        write_json(folder / "annotations" / f"captions_{split}{year}.json", content)
    return folder


def karpathy_coco(path: Path, splits: dict[int, str]) -> Path:
    """dataset_coco.json as Karpathy published it: file names of 2014."""
    images = [
        {
            "cocoid": i,
            "filepath": "val2014",
            "filename": f"COCO_val2014_{i:012d}.jpg",
            "split": split,
            "sentences": sentences(f"karpathy {i}", f"another {i}"),
        }
        for i, split in splits.items()
    ]
    return write_json(path, {"dataset": "coco", "images": images})


def flickr(folder: Path, name: str = "flickr8k", images: str = "images") -> Path:
    """Karpathy's JSON and a folder of images, one image a split."""
    entries = []
    for i, split in enumerate(("train", "val", "test")):
        file_name = f"{100 + i}_abc.jpg"
        write_image(folder / images / file_name, seed=i)
        entries.append({"filename": file_name, "split": split, "sentences": sentences(f"photo {i}", "it")})
    write_json(folder / f"dataset_{name}.json", {"dataset": name, "images": entries})
    return folder


def visual_genome(folder: Path, coco_ids: dict[int, int | None]) -> Path:
    """`coco_ids`: number of the image -> its COCO id or None; three regions an image."""
    for i in coco_ids:
        write_image(folder / ("VG_100K" if i % 2 else "VG_100K_2") / f"{i}.jpg", seed=i)
    write_json(
        folder / "image_data.json",
        [{"image_id": i, "width": 16, "height": 12, "coco_id": c} for i, c in coco_ids.items()],
    )
    regions = [
        {
            "id": i,
            "regions": [
                {"region_id": 10 * i + k, "image_id": i, "phrase": f"region {k} of {i}", "x": k} for k in range(3)
            ],
        }
        for i in coco_ids
    ]
    write_json(folder / "region_descriptions.json", regions)
    return folder


def tar(path: Path, members: dict[str, bytes | str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            content = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path
