"""Small Parquet files with the schemas of well-known data sets on the Hugging Face hub."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from tests.data_pipelines.publishers import encode

IMAGE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
TEXT, NUMBER, TEXTS = pyarrow.string(), pyarrow.int64(), pyarrow.list_(pyarrow.string())
ANSWERS = pyarrow.list_(pyarrow.struct([("answer", TEXT), ("answer_confidence", TEXT), ("answer_id", NUMBER)]))

FLICKR30K = {"image": IMAGE, "caption": TEXTS, "sentids": TEXTS, "split": TEXT, "img_id": TEXT, "filename": TEXT}
FLICKR8K = {"image": IMAGE, **{f"caption_{k}": TEXT for k in range(5)}}
VQA_V2 = {
    "question_type": TEXT,
    "multiple_choice_answer": TEXT,
    "answers": ANSWERS,
    "image_id": NUMBER,
    "answer_type": TEXT,
    "question_id": NUMBER,
    "question": TEXT,
    "image": IMAGE,
}


def write(
    path: Path, rows: Sequence[Mapping[str, Any]], schema: Mapping[str, Any] | None = None, **options: Any
) -> Path:
    """Write rows with two rows per row group, and return the folder; without a schema, the types are inferred."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = None if schema is None else pyarrow.schema(list(schema.items()))
    table = pyarrow.Table.from_pylist(list(rows), schema=kind)
    pyarrow.parquet.write_table(table, path, **{"row_group_size": 2, **options})
    return path.parent


def photo(seed: int, path: str | None = None, **options: Any) -> dict[str, Any]:
    """An encoded image as the hub's library stores it."""
    return {"bytes": encode(seed=seed, **options), "path": path}


def flickr30k(folder: Path, name: str = "data/test-{:05d}-of-00002.parquet") -> Path:
    """`nlphuji/flickr30k`: all splits are in files called test."""
    splits = ("train", "train", "val", "test", "train")
    rows = [
        {
            "image": photo(i),
            "caption": [f"caption {k} of {i}" for k in range(5)],
            "sentids": [str(5 * i + k) for k in range(5)],
            "split": split,
            "img_id": str(i),
            "filename": f"{1000 + i}.jpg",
        }
        for i, split in enumerate(splits)
    ]
    write(folder / name.format(0), rows[:3], FLICKR30K)
    write(folder / name.format(1), rows[3:], FLICKR30K)
    return folder


def flickr8k(folder: Path, counts: Mapping[str, int] | None = None) -> Path:
    """`jxie/flickr8k`: numbered captions, no id."""
    seeds = itertools.count(1)
    for split, count in (counts or {"train": 3, "validation": 1, "test": 2}).items():
        rows = [
            {"image": photo(seed), **{f"caption_{k}": f"caption {k} of {seed}" for k in range(5)}}
            for seed in itertools.islice(seeds, count)
        ]
        write(folder / "data" / f"{split}-00000-of-00001.parquet", rows, FLICKR8K)
    return folder


def vqa_v2(folder: Path, *, path: str = "COCO_{photographs}_{image:012d}.jpg") -> Path:
    """`lmms-lab/VQAv2` with the questions and photographs of `publishers.vqa_v2`, but without its train split."""
    for split, photographs, images, labelled in (
        ("validation", "val2014", {3: 2}, True),
        ("test", "test2015", {4: 1, 5: 2}, False),
        ("testdev", "test2015", {5: 1}, False),
    ):
        rows = [
            {
                "question_type": "what is" if labelled else None,
                "multiple_choice_answer": "net" if labelled else None,
                "answers": [
                    {"answer": "net" if i else "a mesh", "answer_confidence": "yes", "answer_id": i + 1}
                    for i in range(10)
                ]
                if labelled
                else None,
                "image_id": image,
                "answer_type": "other" if labelled else None,
                "question_id": 1000 * image + k,
                "question": f"What is {k} of  {image}?",
                "image": photo(image, path.format(photographs=photographs, image=image) or None, width=16 + image),
            }
            for image, count in images.items()
            for k in range(count)
        ]
        write(folder / "data" / f"{split}-00000-of-00001.parquet", rows, VQA_V2)
    return folder
