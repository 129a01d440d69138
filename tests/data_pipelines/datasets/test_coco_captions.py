"""COCO Captions in its official layout and in Karpathy's splits."""

import json
from pathlib import Path

import pytest

from data_pipelines.datasets.formats import karpathy
from data_pipelines.errors import DataError
from data_pipelines.preparation.run import prepare
from data_pipelines.storage.records import open_records, read_summary
from tests.data_pipelines.publishers import coco, encode, karpathy_coco, write_image, write_json
from tests.real_data import real_data

SPLITS = {1: "train", 2: "restval", 3: "val", 4: "test", 5: "train"}


def ids(records: list) -> list[str]:
    return [record.image_id for record in records]


@pytest.mark.parametrize("year", ["2014", "2017"])
def test_official_splits(tmp_path: Path, read_all, year: str) -> None:
    splits = read_all("coco_captions", coco(tmp_path / "coco", year=year))
    assert {split: ids(records) for split, records in splits.items()} == {
        "train": ["coco/1", "coco/2", "coco/3"],
        "validation": ["coco/4", "coco/5"],
    }
    record = splits["train"][1]
    assert record.texts == ("caption 0 of 2", "caption 1 of 2")
    assert (record.height, record.width) == (12, 18)
    assert record.image == next((tmp_path / "coco").glob(f"train{year}/*2.jpg")).read_bytes()


def test_karpathy_splits_of_2014_with_images_of_2017(tmp_path: Path, read_all) -> None:
    source = coco(tmp_path / "coco")
    karpathy_coco(source / "annotations" / "dataset_coco.json", SPLITS)
    splits = read_all("coco_captions", source)
    assert {split: ids(records) for split, records in splits.items()} == {
        "train": ["coco/1", "coco/5"],
        "restval": ["coco/2"],
        "val": ["coco/3"],
        "test": ["coco/4"],
    }
    assert splits["test"][0].texts == ("karpathy 4", "another 4")


def test_karpathy_file_given_and_not_wanted(tmp_path: Path) -> None:
    source = coco(tmp_path / "coco")
    path = karpathy_coco(tmp_path / "elsewhere.json", SPLITS)
    given = prepare("coco_captions", tmp_path / "a", source, options={"karpathy_json": str(path)})
    assert read_summary(given)["notes"] == ["Karpathy's splits"]
    karpathy_coco(source / "dataset_coco.json", SPLITS)
    official = prepare("coco_captions", tmp_path / "b", source, options={"official_splits": True})
    assert read_summary(official)["notes"] == ["official splits"]


def test_one_split_is_enough(tmp_path: Path, read_all) -> None:
    source = coco(tmp_path / "coco")
    (source / "annotations" / "captions_train2017.json").unlink()
    assert list(read_all("coco_captions", source)) == ["validation"]


def test_year(tmp_path: Path, read_all) -> None:
    source = coco(tmp_path / "coco", year="2014", train=(1,), val=(2,))
    coco(source, year="2017", train=(1, 2), val=(3,))
    with pytest.raises(DataError, match=r"captions of 2014 and 2017.* give --year=2017"):
        read_all("coco_captions", source)
    splits = read_all("coco_captions", source, year="2014")
    assert ids(splits["train"] + splits["validation"]) == ["coco/1", "coco/2"]


def test_no_images(tmp_path: Path, read_all) -> None:
    with pytest.raises(DataError, match="looked for folders train2014, val2014, train2017, val2017"):
        read_all("coco_captions", tmp_path)
    with pytest.raises(DataError, match="looked for folders train2014, val2014; unpack them there"):
        read_all("coco_captions", coco(tmp_path / "coco"), year="2014")


def test_no_annotations(tmp_path: Path, read_all) -> None:
    (tmp_path / "val2017").mkdir()
    with pytest.raises(DataError, match=r"annotations/captions_val2017.json and annotations/dataset_"):
        read_all("coco_captions", tmp_path)


def test_karpathy_file_that_is_not_there(tmp_path: Path, read_all) -> None:
    with pytest.raises(DataError, match=r"--karpathy_json=/nowhere.json is not a file"):
        read_all("coco_captions", coco(tmp_path / "coco"), karpathy_json="/nowhere.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not whole JSON .* download it again"),
        ("[]", "an entry has no 'annotations' of type list"),
        ('{"annotations": [{"image_id": "4"}]}', "an entry has no 'image_id' of type int"),
        ('{"annotations": [], "images": [{"id": 4}]}', "an entry has no 'file_name' of type str"),
        ('{"annotations": [], "images": [{}]}', "an entry has no 'id' of type int"),
    ],
)
def test_damaged_annotations(tmp_path: Path, read_all, content: str, message: str) -> None:
    source = coco(tmp_path / "coco")
    (source / "annotations" / "captions_val2017.json").write_text(content)
    with pytest.raises(DataError, match=f"captions_val2017.json {message}|format: {message}"):
        read_all("coco_captions", source)
    assert not (tmp_path / "data").exists()


def test_wrong_karpathy_file(tmp_path: Path, read_all) -> None:
    source = coco(tmp_path / "coco")
    karpathy_coco(source / "dataset_coco.json", {1: "dev"})
    with pytest.raises(DataError, match=r"is not Karpathy's dataset_coco.json: .* in split 'dev'"):
        read_all("coco_captions", source)
    images = [{"filename": "100_abc.jpg", "split": "train", "sentences": []}]
    write_json(source / "dataset_coco.json", {"images": images})
    with pytest.raises(DataError, match=r"is not Karpathy's dataset_coco.json: image '100_abc.jpg'"):
        read_all("coco_captions", source)


def test_missing_images_are_noticed_before_anything_is_read(tmp_path: Path, read_all) -> None:
    source = coco(tmp_path / "coco")
    karpathy_coco(source / "dataset_coco.json", {**SPLITS, 77: "train", 78: "train"})
    with pytest.raises(DataError) as error:
        read_all("coco_captions", source)
    assert str(error.value).startswith(
        "2 of 4 images (50.0%) cannot be used, more than --max_bad_share=0.01: 2 image file not "
        "found (first: val2014/COCO_val2014_000000000077.jpg)"
    )
    assert not (tmp_path / "data").exists()
    folder = prepare("coco_captions", tmp_path / "data", source, max_bad_share=0.5)
    skipped = read_summary(folder)["skipped"]["train"]
    assert skipped["images"] == {"image file not found": 2}
    assert len(open_records(tmp_path / "data", "coco_captions", "train")) == 2


def test_damaged_image(tmp_path: Path, read_all) -> None:
    source = coco(tmp_path / "coco", train=range(1, 201), val=(500,))
    path = source / "train2017" / f"{7:012d}.jpg"
    path.write_bytes(path.read_bytes()[:-20])
    splits = read_all("coco_captions", source)
    assert ids(splits["train"]) == [f"coco/{i}" for i in range(1, 201) if i != 7]
    summary = read_summary(tmp_path / "data" / "coco_captions" / "1.0.0")
    assert summary["skipped"]["train"]["listed"] == [f"{path}: truncated or damaged file"]


def test_an_image_in_two_splits_is_kept_once(tmp_path: Path, read_all) -> None:
    splits = read_all("coco_captions", coco(tmp_path / "coco", train=(1, 2), val=(2, 3)))
    assert ids(splits["validation"]) == ["coco/3"]


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("000000000139.jpg", 139),
        ("COCO_val2014_000000000139.jpg", 139),
        ("139.jpg", None),
        ("1000268201_693b08cb0e.jpg", None),
        ("camera_000000000139.jpg", None),
        ("202301011200.jpg", None),
    ],
)
def test_coco_id_of(name: str, number: int | None) -> None:
    assert karpathy.coco_id_of(name) == number


def test_real_coco(read_all) -> None:
    source = real_data("coco")
    splits = read_all("coco_captions", source)
    counts = {split: len(records) for split, records in splits.items()}
    assert counts == {"train": 124, "restval": 50, "val": 20, "test": 40}
    published = json.loads((source / "annotations" / "captions_val2017.json").read_text())
    captions: dict[int, list[str]] = {}
    for annotation in published["annotations"]:
        captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
    record = splits["test"][0]
    number = int(record.image_id.removeprefix("coco/"))
    clean = {" ".join(caption.split()) for caption in captions[number]}
    assert set(record.texts) == clean
    assert record.image == (source / "val2017" / f"{number:012d}.jpg").read_bytes()
    assert sum(len(record.texts) for records in splits.values() for record in records) == 1171


def exported(source: Path, names: dict[int, str], split: str = "train") -> Path:
    """A data set in COCO's format: id -> file name; the caption of each image is its file name."""
    content = {
        "images": [{"id": i, "file_name": name} for i, name in names.items()],
        "annotations": [{"id": i, "image_id": i, "caption": f"of {name}"} for i, name in names.items()],
    }
    write_json(source / "annotations" / f"captions_{split}2017.json", content)
    return source


def test_the_file_that_an_annotation_names_is_its_image(tmp_path: Path, read_all) -> None:
    """Ids that differ from the numbers in the names are ignored, and the summary reports their number."""
    names = {1: f"{3:012d}.jpg", 2: f"{1:012d}.jpg", 3: f"{2:012d}.jpg", 9: f"{9:012d}.jpg"}
    for i in (1, 2, 3, 9):
        write_image(tmp_path / "coco" / "train2017" / f"{i:012d}.jpg", seed=i)
    records = read_all("coco_captions", exported(tmp_path / "coco", names))["train"]
    assert [(r.image_id, r.texts, r.image) for r in records] == [
        (f"coco/{i}", (f"of {i:012d}.jpg",), encode(seed=i)) for i in (3, 1, 2, 9)
    ]
    assert read_summary(tmp_path / "data" / "coco_captions" / "1.0.0")["notes"] == [
        "official splits",
        "train: 3 images whose file name has another number than their id; the file name counts",
    ]


def test_names_of_their_own(tmp_path: Path, read_all) -> None:
    """Both splits have a file with the same name; folders, backslashes and absolute paths work, too."""
    source = exported(tmp_path / "coco", {1: "a.jpg", 2: "x/b.jpg", 3: "y\\b.jpg", 4: "/home/me/c.jpg", 139: "139.jpg"})
    exported(source, {1: "a.jpg"}, "val")
    files = ("train2017/a.jpg", "train2017/x/b.jpg", "y/b.jpg", "train2017/c.jpg", "train2017/000000000139.jpg")
    for seed, location in enumerate((*files, "val2017/a.jpg")):
        write_image(source / location, seed=seed)
    splits = read_all("coco_captions", source)
    assert [(r.image_id, r.texts) for r in splits["train"]] == [
        ("coco_captions/train2017/a.jpg", ("of a.jpg",)),
        ("coco_captions/train2017/x/b.jpg", ("of x/b.jpg",)),
        ("coco_captions/train2017/y/b.jpg", ("of y\\b.jpg",)),
        ("coco_captions/train2017/c.jpg", ("of /home/me/c.jpg",)),
        ("coco/139", ("of 139.jpg",)),
    ]
    assert [r.image for r in splits["train"] + splits["validation"]] == [encode(seed=seed) for seed in range(6)]
    assert ids(splits["validation"]) == ["coco_captions/val2017/a.jpg"]


def test_a_name_that_is_not_there_takes_no_other_file(tmp_path: Path, read_all) -> None:
    """Not the file with the id as its number, and not a file with this name in another folder if two have the name."""
    names = {1: "z.jpg", 2: "x/b.jpg", 3: "y/b.jpg", 4: "", 5: "a/" + "x" * 9999, 6: "../../a.jpg", 7: "a/\0.jpg"}
    source = exported(tmp_path / "coco", names)
    write_image(tmp_path / "a.jpg")
    for location in ("train2017/000000000001.jpg", "train2017/b.jpg", "train2017/x/b.jpg"):
        write_image(source / location)
    with pytest.raises(DataError, match=r"6 of 7 images .* 6 image file not found \(first: train2017/z.jpg\)"):
        read_all("coco_captions", source)


def test_names_that_share_twelve_digits_are_different_images(tmp_path: Path, read_all) -> None:
    """Numbers such as times are no COCO ids; an image that is missing takes no file with the same number."""
    names = {i: f"camera{i}_000000011200.jpg" for i in (1, 2, 3)}
    source = exported(tmp_path / "coco", names)
    for i in (2, 3):
        write_image(source / "train2017" / names[i], seed=i)
    with pytest.raises(DataError, match=r"1 of 3 images .* \(first: train2017/camera1_000000011200.jpg\)"):
        read_all("coco_captions", source)
    write_image(source / "train2017" / names[1], seed=1)
    records = read_all("coco_captions", source)["train"]
    assert [(r.image_id, r.texts, r.image) for r in records] == [
        (f"coco_captions/train2017/{name}", (f"of {name}",), encode(seed=i)) for i, name in names.items()
    ]


def test_two_images_with_one_id_are_refused(tmp_path: Path, read_all) -> None:
    """As after joining two files whose ids both begin with 1: each image would get the captions of both."""
    for location in ("train2017/a.jpg", "train2017/b.jpg"):
        write_image(tmp_path / "coco" / location)
    source = exported(tmp_path / "coco", {1: "a.jpg"})
    path = source / "annotations" / "captions_train2017.json"
    content = json.loads(path.read_text())
    write_json(path, content | {"images": [*content["images"], {"id": 1, "file_name": "b.jpg"}]})
    with pytest.raises(DataError, match=r"images 'a.jpg' and 'b.jpg' both have the id 1, so it is not known whose"):
        read_all("coco_captions", source)


def test_captions_of_images_that_are_not_listed_are_counted(tmp_path: Path, read_all) -> None:
    write_image(tmp_path / "coco" / "train2017" / "a.jpg")
    source = exported(tmp_path / "coco", {1: "a.jpg"})
    path = source / "annotations" / "captions_train2017.json"
    content = json.loads(path.read_text())
    lost = [{"image_id": 7, "caption": "x"}, {"image_id": 7, "caption": "y"}]
    write_json(path, content | {"annotations": [*content["annotations"], *lost]})
    assert read_all("coco_captions", source)["train"][0].texts == ("of a.jpg",)
    assert read_summary(tmp_path / "data" / "coco_captions" / "1.0.0")["notes"] == [
        "official splits",
        "train: 2 captions of images that the file does not list, which are not used",
    ]


def test_karpathy_file_with_other_ids(tmp_path: Path, read_all) -> None:
    """A negative id means none; if two ids differ, the file name counts, also for skipped images."""
    source = coco(tmp_path / "coco", train=(1, 2, 3), val=())
    path = karpathy_coco(source / "dataset_coco.json", {1: "train", 2: "train", 3: "test"})
    content = json.loads(path.read_text())
    for image, number in zip(content["images"], (2, -1, None), strict=True):
        image["cocoid"] = number
    write_json(path, content)
    splits = read_all("coco_captions", source)
    assert (ids(splits["train"]), ids(splits["test"])) == (["coco/1", "coco/2"], ["coco/3"])
    assert karpathy.coco_ids(path, ("train",)) == {1, 2}
    assert read_summary(tmp_path / "data" / "coco_captions" / "1.0.0")["notes"] == [
        "Karpathy's splits",
        "train: 1 images whose file name has another number than their id; the file name counts",
    ]
    assert [karpathy.foreign_id(value) for value in (0, 7, 7.0, -1, None, float("nan"), True, "7", 7.5)] == [
        None, 7, 7, None, None, None, None, "7", 7.5,
    ]  # fmt: skip
