"""Visual Genome: regions as texts, without COCO's test images."""

import json
from pathlib import Path

import pytest

from data_pipelines.errors import DataError
from data_pipelines.preparation.run import prepare
from data_pipelines.storage.records import read_summary
from tests.data_pipelines.publishers import encode, karpathy_coco, visual_genome, write_json

# Number of the image -> COCO id; 3 is in COCO's test split, 4 in its val split.
IMAGES = {1: None, 2: 20, 3: 30, 4: 40, 5: 50}
SPLITS = {20: "train", 30: "test", 40: "val", 50: "restval"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    karpathy_coco(tmp_path / "vg" / "annotations" / "dataset_coco.json", SPLITS)
    return visual_genome(tmp_path / "vg", IMAGES)


def test_test_images_of_coco_are_skipped(source: Path, read_all, tmp_path: Path) -> None:
    splits = read_all("visual_genome", source)
    assert list(splits) == ["train"]
    ids = [record.image_id for record in splits["train"]]
    assert ids == ["visual_genome/1", "coco/20", "coco/50"]
    record = splits["train"][1]
    assert record.texts == ("region 0 of 2", "region 1 of 2", "region 2 of 2")
    assert record.image == (source / "VG_100K_2" / "2.jpg").read_bytes()
    summary = read_summary(tmp_path / "data" / "visual_genome" / "1.0.0")
    assert summary["notes"] == ["2 images of COCO's val and test splits skipped"]
    assert summary["skipped"]["train"]["images"] == {}


def test_they_can_be_kept(source: Path, read_all) -> None:
    (source / "annotations" / "dataset_coco.json").unlink()
    with pytest.raises(DataError, match=r"give --karpathy_json=.*, or --keep_coco_test to keep them"):
        read_all("visual_genome", source)
    records = read_all("visual_genome", source, keep_coco_test=True)["train"]
    assert [record.image_id for record in records] == [
        "visual_genome/1",
        *(f"coco/{i}" for i in (20, 30, 40, 50)),
    ]


def test_list_of_coco_given(source: Path, read_all, tmp_path: Path) -> None:
    (source / "annotations" / "dataset_coco.json").unlink()
    path = karpathy_coco(tmp_path / "list.json", {**SPLITS, 20: "test"})
    records = read_all("visual_genome", source, karpathy_json=str(path))["train"]
    assert [record.image_id for record in records] == ["visual_genome/1", "coco/50"]


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("region_descriptions.json", "No descriptions of regions in .*: looked for region_descrip"),
        ("image_data.json", "No list of images in .*: looked for image_data.json; unpack it there"),
    ],
)
def test_layout(source: Path, read_all, remove: str, message: str) -> None:
    (source / remove).unlink()
    with pytest.raises(DataError, match=message):
        read_all("visual_genome", source)


def test_no_images(source: Path, read_all) -> None:
    (source / "VG_100K").rename(source / "a")
    with pytest.raises(DataError, match=r"2 of 3 images .* image file not found \(first: 1.jpg\)"):
        read_all("visual_genome", source)
    (source / "VG_100K_2").rename(source / "b")
    with pytest.raises(DataError, match="looked for folders VG_100K, VG_100K_2, images/VG_100K"):
        read_all("visual_genome", source)


def test_cut_regions(source: Path, read_all, tmp_path: Path) -> None:
    path = source / "region_descriptions.json"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"region_descriptions.json is not whole JSON .*download it"):
        read_all("visual_genome", source)
    assert not (tmp_path / "data" / "visual_genome" / "1.0.0").exists()


def test_regions_of_an_unknown_image(source: Path, read_all) -> None:
    regions = json.loads((source / "region_descriptions.json").read_text())
    write_json(source / "region_descriptions.json", [*regions, {"id": 9, "regions": []}])
    with pytest.raises(DataError, match=r"describes image 9, which image_data.json does not list"):
        read_all("visual_genome", source)


@pytest.mark.parametrize("content", [[3], [{"id": 1}], [{"regions": [{}]}]])
def test_regions_in_another_format(source: Path, read_all, content: list) -> None:
    write_json(source / "region_descriptions.json", content)
    with pytest.raises(DataError, match="is not in the expected format: an entry has no"):
        read_all("visual_genome", source)


def test_image_without_regions_is_counted(source: Path, tmp_path: Path) -> None:
    regions = json.loads((source / "region_descriptions.json").read_text())
    regions[0]["regions"] = []
    regions[1]["regions"][0]["phrase"] = "  "
    write_json(source / "region_descriptions.json", regions)
    folder = prepare("visual_genome", tmp_path / "data", source)
    skipped = read_summary(folder)["skipped"]["train"]
    assert skipped["images"] == {"no text": 1}
    assert skipped["empty_texts"] == 1


def test_the_file_that_an_address_names_is_the_image(tmp_path: Path, read_all) -> None:
    source = visual_genome(tmp_path / "vg", dict.fromkeys((1, 2, 3)))
    names = {1: "VG_100K_2/2.jpg", 2: "VG_100K/1.jpg", 3: "photo_3?size=2"}
    write_json(source / "image_data.json", [{"image_id": i, "url": f"https://x/{name}"} for i, name in names.items()])
    records = read_all("visual_genome", source, keep_coco_test=True)["train"]
    assert [(r.texts[0], r.image) for r in records] == [
        (f"region 0 of {i}", encode(seed=seed)) for i, seed in ((1, 2), (2, 1), (3, 3))
    ]
    assert read_summary(tmp_path / "data" / "visual_genome" / "1.0.0")["notes"] == [
        "2 images whose url in image_data.json has another name than their number; the url counts"
    ]


@pytest.mark.parametrize("number", [-1, 0, float("nan"), None])
def test_a_coco_id_that_means_none(tmp_path: Path, read_all, number: float | None) -> None:
    """Such photographs are not from COCO, and they are different from each other."""
    records = read_all("visual_genome", visual_genome(tmp_path / "vg", {1: number, 2: number}), keep_coco_test=True)
    assert [record.image_id for record in records["train"]] == ["visual_genome/1", "visual_genome/2"]


def test_coco_ids_that_became_floats(tmp_path: Path, read_all) -> None:
    with pytest.raises(DataError, match=r"has no 'coco_id' of type int"):
        read_all("visual_genome", visual_genome(tmp_path / "other", {1: "20"}), keep_coco_test=True)
    source = visual_genome(tmp_path / "vg", {1: 20.0, 2: float("nan")})
    records = read_all("visual_genome", source, keep_coco_test=True)["train"]
    assert [record.image_id for record in records] == ["coco/20", "visual_genome/2"]
