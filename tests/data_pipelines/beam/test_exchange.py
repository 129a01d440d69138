"""Candidates in exchange files: for every data set, workers get the same records."""

from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipelines import datasets
from data_pipelines.beam.exchange import Exchange
from data_pipelines.datasets.reading import examine
from data_pipelines.datasets.settings import Settings
from data_pipelines.errors import DataError
from tests.data_pipelines.publishers import (
    coco,
    daquar,
    detections,
    easy_vqa,
    flickr,
    lines,
    nlvr,
    nlvr2,
    region_hdf5,
    region_npz,
    region_tsv,
    visual_genome,
    vqa_v2,
    write_image,
    write_json,
)

_URL = "http://site.com/{}.jpg"


def _own_images(folder: Path) -> Path:
    write_image(folder / "a.jpg")
    return lines(folder / "train.jsonl", {"image": "a.jpg", "texts": ["a"]}, {"image": "none.jpg", "texts": ["b"]})


def _own_questions(folder: Path) -> Path:
    write_image(folder / "a.jpg")
    return lines(folder / "train.jsonl", {"image": "a.jpg", "questions": [{"question": "b?", "answers": ["c"]}]})


def _own_pairs(folder: Path) -> Path:
    write_image(folder / "a.jpg")
    sentence = {"sentence": "Same.", "label": True}
    return lines(folder / "train.jsonl", {"images": ["a.jpg", "a.jpg"], "sentences": [sentence]})


def _conceptual_captions(folder: Path) -> Path:
    for i in range(2):
        write_image(folder / "train" / f"{i}.jpg", seed=i)
    rows = (f"caption {i}\t{_URL.format(i)}\n" for i in range(3))
    (folder / "Train_GCC-training.tsv").write_text("".join(rows))
    return folder


def _sbu(folder: Path) -> Path:
    urls = {"image_urls": [_URL.format(0)], "captions": ["a chair"], "user_ids": ["x"]}
    write_json(folder / "sbu-captions-all.json", urls)
    write_image(folder / "images" / "0.jpg")
    return folder


# data set -> its files, and options
SOURCES: dict[str, tuple[Callable[[Path], Path], dict]] = {
    "coco_captions": (coco, {}),
    "visual_genome": (lambda folder: visual_genome(folder, {1: 9, 2: None}), {"keep_coco_test": True}),
    "flickr30k": (lambda folder: flickr(folder, "flickr30k"), {}),
    "flickr8k": (flickr, {}),
    "conceptual_captions": (_conceptual_captions, {}),
    "sbu": (_sbu, {"sbu_validation": 0}),
    "image_text": (_own_images, {}),
    "vqa_v2": (vqa_v2, {}),
    "daquar": (daquar, {}),
    "easy_vqa": (easy_vqa, {}),
    "vqa": (_own_questions, {}),
    "nlvr2": (nlvr2, {}),
    "nlvr": (lambda folder: nlvr(folder, as_tar=True), {}),
    "image_pairs": (_own_pairs, {}),
    "shapes": (lambda folder: folder, {"num_train": 3, "num_validation": 1, "num_test": 1, "regions": "drawn"}),
    "noisy_shapes": (lambda folder: folder, {"num_train": 3, "num_validation": 1, "num_test": 1}),
}


def exchanged(tmp_path: Path, name: str, source: Path, **options: object) -> int:
    """Number of candidates, after a check that they give the same records after writing and reading."""
    (tmp_path / "exchange").mkdir(exist_ok=True)
    exchange = Exchange(tmp_path / "exchange", 10)
    builder = datasets.builder_class(name)(
        data_dir=tmp_path / "data", source_dir=source, options=options, settings=Settings(max_bad_share=1)
    )
    builder.check()
    count = 0
    for split, candidates in builder._splits.items():
        before = list(candidates.items)
        exchange.write_candidates(split, 0, before)
        after = exchange.read_candidates(split, 0, exchange.read_regions())
        assert len(before) == len(after)
        for one, other in zip(map(examine, before), map(examine, after), strict=True):
            assert one[0] == other[0]
            assert one[1].keys() == other[1].keys()
            assert all(str(one[1][field]) == str(other[1][field]) for field in one[1])
        count += len(before)
    return count


@pytest.mark.parametrize("name", datasets.names())
def test_every_data_set(tmp_path: Path, name: str) -> None:
    make, options = SOURCES[name]
    assert exchanged(tmp_path, name, make(tmp_path / "source"), **options) > 0


@pytest.mark.parametrize("form", ["tsv", "npz", "groups", "flat", "pos_boxes"])
def test_regions(tmp_path: Path, form: str) -> None:
    found = detections()
    if form == "tsv":
        path = region_tsv(tmp_path / "x.tsv", found)
    elif form == "npz":
        path = region_npz(tmp_path / "npz", found)
    else:
        pytest.importorskip("h5py", reason="needs h5py, of the extra `regions`")
        path = region_hdf5(tmp_path / "x.h5", found, form)
    assert exchanged(tmp_path, "coco_captions", coco(tmp_path / "coco"), regions=str(path)) == 3
    # The source is stored once, not in the chunks.
    written = {file.name: file.read_bytes() for file in (tmp_path / "exchange").iterdir()}
    assert sorted(written) == ["candidates-train-000000", "candidates-validation-000000", "regions"]
    name = b"Npz" if form == "npz" else path.name.encode()
    assert [file for file, content in written.items() if name in content] == ["regions"]


def test_missing_files(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path, 10)
    assert exchange.read_regions() is None
    for read in (lambda: exchange.read_verdicts("train", 3), lambda: exchange.read_candidates("train", 3, None)):
        with pytest.raises(DataError, match=r"-train-000003, which another process .* wrote, is not there; give"):
            read()
