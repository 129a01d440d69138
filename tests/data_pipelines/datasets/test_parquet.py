"""Users' own sets from Parquet files."""

import json
import sys
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from data_pipelines.datasets import builder_class
from data_pipelines.errors import DataError
from data_pipelines.images.files import MAX_SIDE
from data_pipelines.images.resize import ResizeRule
from data_pipelines.preparation.run import prepare
from data_pipelines.preparation.summary import describe
from data_pipelines.storage.index_writer import _fields
from data_pipelines.storage.records import open_records, read_summary
from experiments.evaluation.metrics.vqa import vqa_scores
from tests.data_pipelines import parquet_sets, publishers
from tests.data_pipelines.parquet_sets import IMAGE, NUMBER, TEXT, photo, write
from tests.data_pipelines.publishers import encode, lines, tar, write_image


def read(tmp_path: Path, name: str, source: Path, **options: Any) -> tuple[dict[str, list], dict[str, Any]]:
    """Records by split, and the summary."""
    max_bad_share = options.pop("max_bad_share", 0.01)
    folder = prepare(name, tmp_path / "data", source, options=options, num_threads=2, max_bad_share=max_bad_share)
    summary = read_summary(folder)
    describe(folder, summary, ResizeRule(800, 1333))
    return {split: list(open_records(tmp_path / "data", name, split)) for split in summary["splits"]}, summary


# --- well-known sets of the hub (docs/data.md) ---


@pytest.mark.parametrize("name", ["data/test-{:05d}-of-00002.parquet", "TEST/test/{:04d}.parquet"])
def test_flickr30k(tmp_path: Path, name: str) -> None:
    source = parquet_sets.flickr30k(tmp_path / "source", name)
    splits, summary = read(tmp_path, "image_text", source, split_column="split")
    assert {split: [record.image_id for record in records] for split, records in splits.items()} == {
        "test": ["image_text/1003.jpg"],
        "train": ["image_text/1000.jpg", "image_text/1001.jpg", "image_text/1004.jpg"],
        "val": ["image_text/1002.jpg"],
    }
    assert splits["train"][1].texts == tuple(f"caption {k} of 1" for k in range(5))
    assert splits["train"][1].image == encode(seed=1)
    assert summary["notes"] == [
        "columns: image=image, texts=caption, file_name=filename, image_id=img_id, split=split; not used: sentids"
    ]
    assert summary["columns"]["texts"] == ["caption"] and summary["options"]["split_column"] == "split"


def test_flickr30k_without_its_column_of_splits(tmp_path: Path) -> None:
    splits, summary = read(tmp_path, "image_text", parquet_sets.flickr30k(tmp_path / "source"))
    assert {split: len(records) for split, records in splits.items()} == {"test": 5}
    assert summary["notes"][0].endswith("; not used: sentids, split")


def test_flickr8k(tmp_path: Path) -> None:
    splits, _ = read(tmp_path, "image_text", parquet_sets.flickr8k(tmp_path / "source"))
    assert {split: len(records) for split, records in splits.items()} == {"train": 3, "validation": 1, "test": 2}
    assert splits["test"][0].texts == tuple(f"caption {k} of 5" for k in range(5))


@pytest.mark.parametrize("path", ["COCO_{photographs}_{image:012d}.jpg", ""], ids=["named", "without a path"])
def test_vqa_v2_as_from_its_json(tmp_path: Path, path: str) -> None:
    """Ids, questions, labels, the official score and the fingerprint."""
    splits, summary = read(tmp_path, "vqa", parquet_sets.vqa_v2(tmp_path / "parquet", path=path))
    official, published = read(tmp_path, "vqa_v2", publishers.vqa_v2(tmp_path / "json"))
    names = {"validation": "val", "test": "test", "testdev": "test-dev"}
    assert set(splits) == set(names)
    for name, theirs in names.items():
        assert [(r.image_id, r.texts, r.labels) for r in splits[name]] == [
            (r.image_id, r.texts, r.labels) for r in official[theirs]
        ]
        assert summary["splits"][name]["fingerprint"] == published["splits"][theirs]["fingerprint"]
    labels = [json.loads(label) for record in splits["validation"] for label in record.labels]
    scores = vqa_scores({label["question_id"]: "net" for label in labels}, labels)
    assert scores["accuracy"] > 0.99 and set(scores["per_answer_type"]) == {"other"}
    assert "images of testdev that are also in test: 1" in summary["notes"]


def test_other_numbers_are_not_coco_ids(tmp_path: Path) -> None:
    """A single question whose number is not that of its image; and the user's word."""
    source = parquet_sets.vqa_v2(tmp_path / "source", path="")
    file = source / "data" / "test-00000-of-00001.parquet"
    rows = pyarrow.parquet.read_table(file).to_pylist()
    rows[-1]["question_id"] = 7
    write(file, rows, parquet_sets.VQA_V2)
    assert read(tmp_path, "vqa", source)[0]["validation"][0].image_id == "vqa/3"
    splits, _ = read(tmp_path / "said", "vqa", source, columns="coco_id=image_id")
    assert splits["validation"][0].image_id == "coco/3"


def test_coco_ids_that_became_floats(tmp_path: Path) -> None:
    """As pandas writes a column in which some ids are absent; numbers that are not positive are no ids."""
    ids = (139.0, None, float("nan"), -1.0, 0.0)
    rows = [{"image": photo(i), "coco_id": number, "caption": "x"} for i, number in enumerate(ids)]
    splits, _ = read(tmp_path, "image_text", write(tmp_path / "source" / "train.parquet", rows))
    assert [r.image_id.partition("/")[0] for r in splits["train"]] == ["coco", *["image_text"] * 4]
    assert splits["train"][0].image_id == "coco/139"


def test_coco_captions_one_row_per_caption(tmp_path: Path) -> None:
    """Several rows of one image are one record, near and far; file names give the COCO ids."""
    order = (139, 139, 285, 139, 632, 285)
    rows = [
        {"image": photo(i), "file_name": f"COCO_val2014_{i:012d}.jpg", "caption": f"{k} of {i}"}
        for k, i in enumerate(order)
    ]
    splits, summary = read(tmp_path, "image_text", write(tmp_path / "source" / "val.parquet", rows))
    assert [(r.image_id, r.texts) for r in splits["val"]] == [
        ("coco/139", ("0 of 139", "1 of 139", "3 of 139")),
        ("coco/285", ("2 of 285", "5 of 285")),
        ("coco/632", ("4 of 632",)),
    ]
    assert summary["notes"][1] == "val: 6 rows of 3 images"


def test_regions_join_by_the_name_in_a_row(tmp_path: Path) -> None:
    rows = [{"image": photo(i, width=16 + i), "file_name": f"{i:012d}.jpg", "caption": "x"} for i in (1, 2, 4)]
    source = write(tmp_path / "source" / "train.parquet", rows)
    regions = publishers.region_tsv(tmp_path / "r.tsv", publishers.detections())
    splits, _ = read(tmp_path, "image_text", source, regions=str(regions))
    assert [r.regions.boxes.shape for r in splits["train"]] == [(2, 4)] * 3


def test_img2dataset(tmp_path: Path) -> None:
    """Failed downloads have no image; images with the same bytes under several keys stay several records."""
    rows = [
        {"key": f"{i:09d}", "url": "http://x", "caption": f"{i}", "status": "success", "jpg": encode(seed=seed)}
        for i, seed in enumerate((0, 1, 1))
    ]
    rows.append({"key": "000000003", "url": "http://x", "caption": "3", "status": "failed_to_download", "jpg": None})
    splits, summary = read(tmp_path, "image_text", write(tmp_path / "source" / "00000.parquet", rows))
    assert [r.image_id for r in splits["train"]] == [f"image_text/{i:09d}" for i in range(3)]
    assert summary["skipped"]["train"]["unused"] == {"rows without an image": 1}
    assert summary["skipped"]["train"]["identical"] == 1


# --- the same data in every layout ---


def test_same_content_as_json_lines_and_tar(tmp_path: Path) -> None:
    texts = [["a dog", " an  animal"], ["Größe"], ["x"]]
    images = [encode(seed=i) for i in range(3)]
    names = [f"{i}.jpg" for i in range(3)]
    for name, image in zip(names, images, strict=True):
        for folder in ("lines", "paths"):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / name).write_bytes(image)
    entries = [{"image": name, "texts": its_texts} for name, its_texts in zip(names, texts, strict=True)]
    lines(tmp_path / "lines" / "train.jsonl", *entries)
    about = [json.dumps({"texts": its_texts}) for its_texts in texts]
    members = {f"{i}.{k}": v for i in range(3) for k, v in (("jpg", images[i]), ("json", about[i]))}
    tar(tmp_path / "tar" / "train" / "0.tar", members)
    write(tmp_path / "paths" / "train.parquet", entries)
    embedded = [{"image": {"bytes": i, "path": n}, "texts": t} for i, n, t in zip(images, names, texts, strict=True)]
    write(tmp_path / "embedded" / "train.parquet", embedded)
    plain = [{"img": image, "texts": its_texts} for image, its_texts in zip(images, texts, strict=True)]
    write(tmp_path / "plain" / "train.parquet", plain)
    content, fingerprints = {}, {}
    for layout in ("lines", "tar", "paths", "embedded", "plain"):
        splits, summary = read(tmp_path / "out" / layout, "image_text", tmp_path / layout)
        content[layout] = [_fields(record)[1:] for record in splits["train"]]
        fingerprints[layout] = summary["splits"]["train"]["fingerprint"]
    assert all(fields == content["lines"] for fields in content.values())
    assert fingerprints["lines"] == fingerprints["paths"] == fingerprints["embedded"]  # the same ids too
    assert len(set(fingerprints.values())) == 3


def test_questions_and_pairs_as_from_json_lines(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        for folder in ("vqa_lines", "vqa", "pairs_lines", "pairs"):
            write_image(tmp_path / folder / name, seed=ord(name[0]))
    questions = [("a.jpg", "What?", ["x", "y"]), ("a.jpg", "Why?", ["z"]), ("b.jpg", "Who?", ["x"])]
    lines(
        tmp_path / "vqa_lines" / "train.jsonl",
        *({"image": i, "questions": [{"question": q, "answers": a}]} for i, q, a in questions),
    )
    write(tmp_path / "vqa" / "train.parquet", [{"image": i, "question": q, "answers": a} for i, q, a in questions])
    sentences = [
        ("a.jpg", "b.jpg", "One.", True),
        ("b.jpg", "a.jpg", "Two.", False),
        ("a.jpg", "b.jpg", "Three.", False),
    ]
    lines(
        tmp_path / "pairs_lines" / "train.jsonl",
        *({"images": [a, b], "sentences": [{"sentence": s, "label": t}]} for a, b, s, t in sentences),
    )
    write(
        tmp_path / "pairs" / "train.parquet",
        [{"left_image": a, "right_image": b, "sentence": s, "label": t} for a, b, s, t in sentences],
    )
    for name, folder in (("vqa", "vqa"), ("image_pairs", "pairs")):
        _, expected = read(tmp_path / f"{folder}_out", name, tmp_path / f"{folder}_lines")
        _, found = read(tmp_path / f"{folder}_out2", name, tmp_path / folder)
        assert found["splits"]["train"]["fingerprint"] == expected["splits"]["train"]["fingerprint"]


@pytest.mark.parametrize("labels", [(True, False), ("True", "false"), (1, 0), "classes"])
def test_pairs_in_a_list(tmp_path: Path, labels: Any) -> None:
    kind = {"images": pyarrow.list_(IMAGE), "sentence": TEXT, "identifier": TEXT, "label": NUMBER}
    rows = [
        {"images": [photo(1), photo(2)], "sentence": "One.", "identifier": "x-0"},
        {"images": [photo(1), photo(2)], "sentence": "Two.", "identifier": "x-1"},
    ]
    if labels == "classes":
        labels, features = (0, 1), {"label": {"names": ["True", "False"], "_type": "ClassLabel"}}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    else:
        metadata = None
        kind["label"] = pyarrow.infer_type(labels)
    for row, label in zip(rows, labels, strict=True):
        row["label"] = label
    table = pyarrow.Table.from_pylist(rows, schema=pyarrow.schema(list(kind.items()), metadata=metadata))
    (tmp_path / "source").mkdir()
    pyarrow.parquet.write_table(table, tmp_path / "source" / "dev-00000-of-00001.parquet")
    (record,) = read(tmp_path, "image_pairs", tmp_path / "source")[0]["dev"]
    assert record.image == encode(seed=1) and record.second.image == encode(seed=2)
    assert [json.loads(label) for label in record.labels] == [
        {"identifier": "x-0", "label": True, "group": "One."},
        {"identifier": "x-1", "label": False, "group": "Two."},
    ]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ("red", ["red"]),
        (["red", "blue"], ["red", "blue"]),
        ([{"answer": "red", "answer_id": 1}, {"answer": None, "answer_id": 2}], ["red"]),
        ({"answer": ["red", "blue"], "answer_id": [1, 2]}, ["red", "blue"]),
    ],
)
def test_answers(tmp_path: Path, answers: Any, expected: list[str]) -> None:
    rows = [{"image": photo(1), "question": "What?", "answers": answers}]
    (record,) = read(tmp_path, "vqa", write(tmp_path / "source" / "train.parquet", rows))[0]["train"]
    assert json.loads(record.labels[0])["answers"] == expected


# --- rows that cannot be used ---


def test_damaged_rows_are_skipped_and_counted(tmp_path: Path) -> None:
    rows = [
        {"image": photo(1), "caption": "good"},
        {"image": photo(2), "caption": None},
        {"image": photo(3), "caption": ""},
        {"image": {"bytes": b"", "path": None}, "caption": "empty"},
        {"image": {"bytes": b"no image", "path": None}, "caption": "damaged"},
        {"image": {"bytes": encode(seed=4)[:-40], "path": None}, "caption": "cut"},
        {"image": None, "caption": "none"},
        {"image": {"bytes": None, "path": None}, "caption": "none"},
        {"image": {"bytes": None, "path": "../secret.jpg"}, "caption": "outside"},
        {"image": {"bytes": None, "path": "missing.jpg"}, "caption": "missing"},
    ]
    write_image(tmp_path / "secret.jpg")
    source = write(tmp_path / "source" / "train.parquet", rows, {"image": IMAGE, "caption": TEXT})
    splits, summary = read(tmp_path, "image_text", source, max_bad_share=0.9)
    assert [r.texts for r in splits["train"]] == [("good",)]
    skipped = summary["skipped"]["train"]
    assert skipped["unused"] == {"rows without an image": 2}
    assert skipped["images"] == {
        "no text": 2,
        "empty file": 1,
        "not a JPEG, PNG, WebP, BMP or GIF": 1,
        "truncated or damaged file": 1,
        "path outside of the folder": 1,
        "image file not found": 1,
    }
    assert skipped["bad"] == 5
    assert any(f"{source / 'train.parquet'}, row 3" in line for line in skipped["listed"])


def test_texts_and_names_that_are_not_utf_8(tmp_path: Path) -> None:
    texts = pyarrow.Array.from_buffers(
        pyarrow.string(), 2, pyarrow.array([b"\xff\xfe", b"fine"], pyarrow.binary()).buffers()
    )
    table = pyarrow.table(
        {"image": pyarrow.array([encode(seed=1), encode(seed=2)]), "caption": texts, "file_name": texts}
    )
    (tmp_path / "source").mkdir()
    pyarrow.parquet.write_table(table, tmp_path / "source" / "train.parquet")
    splits, summary = read(tmp_path, "image_text", tmp_path / "source")
    assert [(r.image_id, r.texts) for r in splits["train"]] == [("image_text/fine", ("fine",))]
    assert summary["skipped"]["train"]["texts"] == {"text is not UTF-8": 1}


def test_questions_that_cannot_be_used(tmp_path: Path) -> None:
    kind = {"image": IMAGE, "question": TEXT, "question_id": pyarrow.float64(), "answers": parquet_sets.TEXTS}
    rows = [
        {"image": photo(1), "question": "good?", "question_id": 1.0, "answers": ["a"]},
        {"image": photo(1), "question": "", "question_id": 2.0, "answers": ["a"]},
        {"image": photo(1), "question": "NaN?", "question_id": float("nan"), "answers": ["a"]},
        {"image": photo(1), "question": "unanswered?", "question_id": 3.0, "answers": []},
        {"image": photo(1), "question": "unanswered?", "question_id": 4.0, "answers": [None]},
    ]
    splits, summary = read(tmp_path, "vqa", write(tmp_path / "source" / "train.parquet", rows, kind))
    (record,) = splits["train"]
    assert record.texts == ("good?",) and json.loads(record.labels[0]) == {"question_id": 1, "answers": ["a"]}
    skipped = summary["skipped"]["train"]
    assert skipped["texts"] == {"no question_id": 1, "no answers, unlike others of the split": 2}
    assert skipped["empty_texts"] == 1


def test_a_header_of_a_huge_image_is_not_decoded(tmp_path: Path) -> None:
    huge = bytearray(encode(format="PNG"))
    huge[16:20] = (MAX_SIDE + 1).to_bytes(4, "big")
    huge[29:33] = zlib.crc32(huge[12:29]).to_bytes(4, "big")
    rows = [{"image": bytes(huge), "caption": "x"}, {"image": encode(), "caption": "y"}]
    source = write(tmp_path / "source" / "train.parquet", rows)
    _, summary = read(tmp_path, "image_text", source, max_bad_share=0.9)
    assert summary["skipped"]["train"]["images"] == {f"a side over {MAX_SIDE:,} pixels": 1}


def test_test_images_are_never_in_training(tmp_path: Path) -> None:
    """Without names, images are known by their bytes."""
    source = parquet_sets.flickr8k(tmp_path / "source", {"test": 1, "train": 2})
    train = source / "data" / "train-00000-of-00001.parquet"
    rows = pyarrow.parquet.read_table(train).to_pylist()
    rows[0]["image"]["bytes"] = encode(seed=1)  # that of the only row of test
    write(train, rows, parquet_sets.FLICKR8K)
    splits, summary = read(tmp_path, "image_text", source)
    assert [r.image for r in splits["train"]] == [encode(seed=3)]
    assert summary["skipped"]["train"]["images"] == {"image occurs twice": 1}


def test_equal_names_of_different_images(tmp_path: Path) -> None:
    rows = [{"image": photo(i, "image.jpg"), "caption": f"{i}"} for i in (1, 2, 1)]
    splits, summary = read(tmp_path, "image_text", write(tmp_path / "source" / "train.parquet", rows))
    assert [(r.image, r.texts) for r in splits["train"]] == [(encode(seed=1), ("1", "1")), (encode(seed=2), ("2",))]
    assert summary["notes"][1].startswith("the images' names are not their ids")


# --- columns and splits ---


def test_columns_are_found_by_type_or_named(tmp_path: Path) -> None:
    rows = [{"photo": photo(i), "words": f"text {i}", "more": f"more {i}", "file_name": f"{i}"} for i in range(2)]
    source = write(tmp_path / "source" / "train.parquet", rows)
    with pytest.raises(
        DataError, match=r"no column for texts .* among photo \(struct<.*\), words \(string\), more \(s"
    ):
        read(tmp_path, "image_text", source)
    splits, summary = read(tmp_path, "image_text", source, columns="texts=more+words")
    assert [r.texts for r in splits["train"]] == [("more 0", "text 0"), ("more 1", "text 1")]
    assert summary["columns"] == {"image": ["photo"], "texts": ["more", "words"], "file_name": ["file_name"]}
    assert summary["options"]["columns"] == "texts=more+words"
    with pytest.raises(DataError, match=r"was prepared with --columns=texts=more\+words, not texts=words"):
        read(tmp_path, "image_text", source, columns="texts=words")


@pytest.mark.parametrize("columns", ["", "image=image.bytes"])
def test_a_flat_column_of_bytes(tmp_path: Path, columns: str) -> None:
    rows = [{"image.bytes": encode(seed=1), "image.path": "a.jpg", "text": "x"}]
    source = write(tmp_path / "source" / "train.parquet", rows)
    assert read(tmp_path, "image_text", source, columns=columns)[0]["train"][0].image == encode(seed=1)
    nested = write(tmp_path / "nested" / "train.parquet", [{"image": photo(1), "text": "x"}])
    assert read(tmp_path / "n", "image_text", nested, columns=columns)[0]["train"][0].image == encode(seed=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": "texts=none"}, r"train.parquet has no column 'none' of --columns=texts=none; it has image \(bina"),
        ({"columns": "image=n"}, r"column 'n' is int64, which cannot be image \(bytes, image, text\); name another"),
        ({"columns": "pixels=image"}, r"'pixels=image' is not ROLE=COLUMN with one of the roles image, texts"),
        ({"columns": "image"}, r"'image' is not ROLE=COLUMN"),
        ({"split_column": "part"}, r"has no column 'part' of --split_column=part; it has image \(binary\), caption"),
        ({"split_column": "caption"}, r"'a b' in .* cannot be the name of a split"),
        ({"split_column": "n"}, r"column 'n' is int64, which cannot be split \(text\)"),
    ],
)
def test_wrong_options(tmp_path: Path, options: dict[str, str], message: str) -> None:
    source = write(tmp_path / "source" / "train.parquet", [{"image": encode(), "caption": "a b", "n": 1}])
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path, "image_text", source, **options)
    assert "\n" not in str(error.value)


def test_missing_columns_of_questions_and_pairs(tmp_path: Path) -> None:
    source = write(tmp_path / "source" / "train.parquet", [{"image": encode(), "caption": "a"}])
    with pytest.raises(
        DataError, match=r"no column for question \(question\) among image \(binary\), caption \(string\)"
    ):
        read(tmp_path, "vqa", source)
    with pytest.raises(DataError, match=r"no column for image \(left_image\+right_image, images\) among image \(bin"):
        read(tmp_path, "image_pairs", source)


def test_files_whose_columns_differ(tmp_path: Path) -> None:
    source = write(tmp_path / "source" / "train.parquet", [{"image": encode(), "caption": "a"}])
    write(source / "val.parquet", [{"image": encode(), "text": "a"}])
    with pytest.raises(DataError, match=r"val.parquet has texts in text, and other files .* have it in caption"):
        read(tmp_path, "image_text", source)


def test_files_whose_types_differ(tmp_path: Path) -> None:
    """A column of nulls has no type, as the answers of a test split; any other type is an error."""
    rows = [{"image": photo(1), "question": "What?", "answers": ["x"]}]
    source = write(tmp_path / "source" / "train.parquet", rows)
    write(source / "test.parquet", [{**rows[0], "answers": None}])
    splits, _ = read(tmp_path, "vqa", source)
    assert ["answers" in json.loads(splits[split][0].labels[0]) for split in ("train", "test")] == [True, False]
    write(source / "test.parquet", [{**rows[0], "answers": 3}])
    with pytest.raises(DataError, match=r"test.parquet: column 'answers' is int64, which cannot be answers"):
        read(tmp_path / "again", "vqa", source)


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("train-00000-of-00002.parquet", "train-00001-of-00002.parquet"), {"train": 2}),
        (("data/validation-00000-of-00001-abcdef0123456789.parquet",), {"validation": 1}),
        (("train.parquet", "my_test.parquet"), {"train": 1, "my_test": 1}),
        (("00000.parquet", "00001.parquet"), {"train": 2}),
        (("train/00000.parquet", "val/00000.parquet"), {"train": 1, "val": 1}),
        (("default/train/0000.parquet", ".cache/x.parquet"), {"train": 1}),
    ],
)
def test_splits_by_file_names(tmp_path: Path, names: tuple[str, ...], splits: dict[str, int]) -> None:
    for i, name in enumerate(names):
        write(tmp_path / "source" / name, [{"image": encode(seed=i), "caption": "a"}])
    found, _ = read(tmp_path, "image_text", tmp_path / "source")
    assert {split: len(records) for split, records in found.items()} == splits


def test_ambiguous_layouts(tmp_path: Path) -> None:
    rows = [{"image": encode(), "caption": "a"}]
    for folder in ("a", "b"):
        write(tmp_path / folder / "train-00000-of-00001.parquet", rows)
    with pytest.raises(DataError, match=r"split 'train' in several folders \(a, b\)"):
        read(tmp_path, "image_text", tmp_path)
    write(tmp_path / "x" / "train.parquet", rows)
    lines(tmp_path / "x" / "train.jsonl")
    with pytest.raises(DataError, match=r"has both Parquet files and .jsonl files; move one kind elsewhere"):
        read(tmp_path, "image_text", tmp_path / "x")
    lines(tmp_path / "y" / "train.jsonl", {"image": "a.jpg", "texts": ["x"]})
    with pytest.raises(DataError, match=r"--columns=image=x is for Parquet files, and .*y has none; leave it out"):
        read(tmp_path, "image_text", tmp_path / "y", columns="image=x")


def test_repeated_question_id(tmp_path: Path) -> None:
    rows = [
        {"image": photo(i), "question": "x?", "question_id": q, "answers": ["a"]} for i, q in enumerate((5, 6, 7, 6))
    ]
    source = write(tmp_path / "source" / "train.parquet", rows)
    with pytest.raises(DataError, match=r"train.parquet, row 3: its question_id is that of an earlier row"):
        read(tmp_path, "vqa", source)
    assert not (tmp_path / "data" / "vqa" / "1.1.0").exists()


# --- files ---


def test_a_truncated_file(tmp_path: Path) -> None:
    source = write(tmp_path / "source" / "train.parquet", [{"image": encode(), "caption": "a"}])
    content = (source / "train.parquet").read_bytes()
    (source / "train.parquet").write_bytes(content[:-20])
    with pytest.raises(DataError, match=r"train.parquet is not a whole Parquet file \(.*\); download it again"):
        read(tmp_path, "image_text", source)


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "source" / "train.parquet", [{"image": encode(), "caption": "a"}])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"Parquet files need pyarrow; run `pip install 'pixelbert_jax\[parquet\]'`\.$"):
        read(tmp_path, "image_text", source)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """200 images of 300 kB in one row group: a few batches are in memory, of Arrow and of Python."""
    count, padding = 200, bytes(range(256)) * 1200
    rows = [{"image": encode(seed=i) + i.to_bytes(2, "big") + padding, "caption": "a"} for i in range(count)]
    write(tmp_path / "train.parquet", rows, row_group_size=count, write_batch_size=4, compression="none")
    total = sum(len(row["image"]) for row in rows)
    del rows
    usual, counted = pyarrow.default_memory_pool(), pyarrow.proxy_memory_pool(pyarrow.default_memory_pool())
    whole = pyarrow.proxy_memory_pool(usual)
    try:
        pyarrow.set_memory_pool(whole)
        pyarrow.parquet.ParquetFile(tmp_path / "train.parquet").read_row_group(0)
        pyarrow.set_memory_pool(counted)
        builder = builder_class("image_text")(data_dir=tmp_path / "data", source_dir=tmp_path)
        tracemalloc.start()
        read_bytes = sum(len(candidate.read()) for candidate in builder.candidates()["train"].items)
        python = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        pyarrow.set_memory_pool(usual)
    assert read_bytes == total
    assert whole.max_memory() > total  # the control
    assert counted.max_memory() + python < 32e6 < total / 1.9
