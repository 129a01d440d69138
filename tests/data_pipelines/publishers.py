"""Tiny data sets in the layouts of their publishers, written to a temporary folder."""

import base64
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def encode(height: int = 12, width: int = 16, format: str = "JPEG", mode: str = "RGB", seed=0) -> bytes:
    """An encoded image of smooth noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    image = Image.fromarray(pixels).resize((width, height)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


def write_image(path: Path, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(**options))
    return path


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def lines(path: Path, *entries: Any) -> Path:
    """Write a file of JSON lines; strings are written unchanged. Returns its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{e if isinstance(e, str) else json.dumps(e)}\n" for e in entries)
    path.write_text(text, encoding="utf-8")
    return path.parent


def sentences(*texts: str) -> list[dict]:
    return [{"raw": text, "tokens": text.split()} for text in texts]


def coco(folder: Path, *, year: str = "2017", train=(1, 2, 3), val=(4, 5)) -> Path:
    """Official layout: folders of images and captions_*.json; two captions per image."""
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
    """Karpathy's JSON and a folder of images, one image per split."""
    entries = []
    for i, split in enumerate(("train", "val", "test")):
        file_name = f"{100 + i}_abc.jpg"
        write_image(folder / images / file_name, seed=i)
        entries.append({"filename": file_name, "split": split, "sentences": sentences(f"photo {i}", "it")})
    write_json(folder / f"dataset_{name}.json", {"dataset": name, "images": entries})
    return folder


def visual_genome(folder: Path, coco_ids: dict[int, int | None]) -> Path:
    """`coco_ids`: number of the image -> its COCO id or None; three regions per image."""
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


def vqa_questions(folder: Path, subtype: str, images: dict[int, int], answers: bool = True) -> Path:
    """VQA 2.0's files of one split; `images`: COCO id -> number of questions. The answers are in another order."""
    head = {"info": {"version": "2.0"}, "data_type": "mscoco", "data_subtype": subtype}
    questions = [
        {"image_id": image, "question": f"What is {k} of  {image}?", "question_id": 1000 * image + k}
        for image, count in images.items()
        for k in range(count)
    ]
    write_json(folder / f"v2_OpenEnded_mscoco_{subtype}_questions.json", {**head, "questions": questions})
    annotations = [
        {
            "question_id": question["question_id"],
            "image_id": question["image_id"],
            "question_type": "what is",
            "answer_type": "other",
            "multiple_choice_answer": "net",
            "answers": [
                {"answer": "net" if i else "a mesh", "answer_confidence": "yes", "answer_id": i + 1} for i in range(10)
            ],
        }
        for question in reversed(questions)
    ]
    if answers:
        write_json(folder / f"v2_mscoco_{subtype}_annotations.json", {**head, "annotations": annotations})
    return folder


def vqa_v2(folder: Path) -> Path:
    """VQA 2.0: two images of train, one of val, two of test of which one is also in test-dev."""
    for photographs, ids in {"train2014": (1, 2), "val2014": (3,), "test2015": (4, 5)}.items():
        for i in ids:
            write_image(folder / photographs / f"COCO_{photographs}_{i:012d}.jpg", width=16 + i, seed=i)
    vqa_questions(folder, "train2014", {2: 2, 1: 1})
    vqa_questions(folder, "val2014", {3: 2})
    vqa_questions(folder, "test2015", {4: 1, 5: 2}, answers=False)
    return vqa_questions(folder, "test-dev2015", {5: 1}, answers=False)


def visual_genome_qa(folder: Path, coco_ids: dict[int, int | None]) -> Path:
    """Visual Genome with two questions per image."""
    visual_genome(folder, coco_ids)
    entries = [
        {
            "id": i,
            "qas": [
                {"qa_id": 10 * i + k, "image_id": i, "question": f"Why {k}?", "answer": f"Because of {i}."}
                for k in range(2)
            ],
        }
        for i in coco_ids
    ]
    write_json(folder / "question_answers.json", entries)
    return folder


def daquar(folder: Path) -> Path:
    """DAQUAR: image1 for test, image2 and image3 for train."""
    for i in (1, 2, 3):
        write_image(folder / "images" / f"image{i}.png", format="PNG", seed=i)
    (folder / "train_images_list.txt").write_text("image2\nimage3\n")
    (folder / "test_images_list.txt").write_text("image1")
    pairs = [
        ("what is on the table in the image3 ?", "book, pen"),
        ("what is red in the image1 ?", "garbage_bin"),
        ("how many chairs are in the image2 ?", "2"),
        ("what is in the image3 behind the bed in the image3 ?", "wall"),
    ]
    (folder / "all_qa_pairs.txt").write_text("\n".join(line for pair in pairs for line in pair))
    return folder


def easy_vqa(folder: Path) -> Path:
    """easy-VQA: two images of train, one of test."""
    for split, questions in {
        "train": [["what shape is it?", "circle", 0], ["is it red?", "no", 1], ["is it teal?", "yes", 0]],
        "test": [["what color is it?", "blue", 0]],
    }.items():
        write_json(folder / split / "questions.json", questions)
        for i in {question[2] for question in questions}:
            write_image(folder / split / "images" / f"{i}.png", format="PNG", seed=i)
    return folder


def nlvr2(folder: Path, images: str = "images/{split}") -> Path:
    """NLVR2: two pairs of train with two sentences each, one pair of dev, one of test1."""
    for split, identifiers in {
        "train": ("train-7-1-0", "train-7-0-0", "train-7-1-1", "train-7-0-1"),
        "dev": ("dev-3-2-0",),
        "test1": ("test1-0-0-1",),
    }.items():
        entries = []
        for i, identifier in enumerate(identifiers):
            label = ("False", "True")[i % 2]
            entries.append({"sentence": f"Sentence {i} .", "label": label, "identifier": identifier, "writer": "1"})
            for side in (0, 1):
                name = f"{identifier.rpartition('-')[0]}-img{side}.png"
                path = folder / images.format(split=split) / name
                write_image(path, width=16 + side, format="PNG", seed=10 * i + side)
        lines(folder / "data" / f"{split}.json", *entries)
    return folder


def nlvr(folder: Path, split: str = "dev", prefix: str = "dev", *, as_tar: bool = False) -> Path:
    """NLVR, one split: two sentences with six images each."""
    entries, images = [], {}
    for i, identifier in enumerate(("12-0", "12-3")):
        label = ("true", "false")[i]
        entries.append({"sentence": f"Sentence {i}", "label": label, "identifier": identifier, "directory": "4"})
        for k in range(6):
            images[f"images/4/{prefix}-{identifier}-{k}.png"] = encode(4, 10, "PNG", "P", seed=10 * i + k)
    lines(folder / split / f"{split}.json", *entries)
    if as_tar:
        tar(folder / split / "images.tar", images)
    else:
        for name, content in images.items():
            path = folder / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return folder


def detections(image_ids: tuple = ("1", "2", "4"), *, size: int = 3, boxes: int = 2) -> dict[str, dict[str, Any]]:
    """Image id -> arrays of its regions as in LXMERT, by descending confidence, for `coco`."""
    found = {}
    for i, image_id in enumerate(image_ids):
        rng = np.random.default_rng(i)
        height, width = 12, 16 + int(image_id) if str(image_id).isdigit() else 16
        low_Nx2 = rng.uniform(0, 0.4, (boxes, 2)) * (width, height)
        high_Nx2 = rng.uniform(0.6, 1, (boxes, 2)) * (width, height)
        found[image_id] = {
            "img_h": height,
            "img_w": width,
            "objects_id": rng.integers(0, 1600, boxes),
            "objects_conf": np.sort(rng.uniform(0.1, 1, boxes).astype(np.float32))[::-1].copy(),
            "attrs_id": rng.integers(0, 400, boxes),
            "attrs_conf": rng.uniform(0, 1, boxes).astype(np.float32),
            "num_boxes": boxes,
            "boxes": np.concatenate([low_Nx2, high_Nx2], 1).astype(np.float32),
            "features": rng.normal(0, 2, (boxes, size)).astype(np.float32),
        }
    return found


def lxmert_row(image_id: str, **values: Any) -> bytes:
    """A row of `detections` in LXMERT's format; bytes and strings are written unchanged."""
    columns = (
        "img_h",
        "img_w",
        "objects_id",
        "objects_conf",
        "attrs_id",
        "attrs_conf",
        "num_boxes",
        "boxes",
        "features",
    )
    return b"\t".join([image_id.encode(), *(_cell(values[name]) for name in columns)]) + b"\n"


def bottom_up_row(image_id: str, **values: Any) -> bytes:
    """The same row in the format of bottom-up-attention, without classes."""
    columns = ("img_w", "img_h", "num_boxes", "boxes", "features")
    return b"\t".join([image_id.encode(), *(_cell(values[name]) for name in columns)]) + b"\n"


def _cell(value: Any) -> bytes:
    if isinstance(value, np.ndarray):
        return base64.b64encode(value.tobytes())
    return value if isinstance(value, bytes) else str(value).encode()


def region_tsv(path: Path, found: dict[str, dict[str, Any]], row: Any = lxmert_row) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(row(image_id, **values) for image_id, values in found.items()))
    return path


def region_npz(folder: Path, found: dict[str, dict[str, Any]]) -> Path:
    """A folder with one file per image."""
    for image_id, values in found.items():
        path = folder / f"{image_id}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **values)
    return folder


def region_hdf5(path: Path, found: dict[str, dict[str, Any]], layout: str = "groups") -> Path:
    """An HDF5 file; layout: "groups", "flat" (all images have the same number of boxes) or "pos_boxes"."""
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    names = [name for name in next(iter(found.values())) if not name.startswith("attrs")]
    names.sort(key=lambda name: np.ndim(next(iter(found.values()))[name]), reverse=True)  # features first
    with h5py.File(path, "w") as file:
        if layout == "groups":
            for image_id, values in found.items():
                for name, value in values.items():
                    file[f"{image_id}/{name}"] = value
            return path
        file["image_ids"] = [image_id.encode() for image_id in found]
        for name in names:
            arrays = [values[name] for values in found.values()]
            per_box = layout == "pos_boxes" and np.ndim(arrays[0]) > 0 and name != "global_feature"
            file[name] = np.concatenate(arrays) if per_box else np.stack(arrays)
        if layout == "pos_boxes":
            ends = np.cumsum([len(values[names[0]]) for values in found.values()])
            file["pos_boxes"] = np.stack([np.concatenate([[0], ends[:-1]]), ends], 1)
    return path
