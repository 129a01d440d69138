"""The formats of region files: the same arrays give the same regions in all formats; one row is in memory at a time."""

import base64
import json
import os
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.errors import DataError
from data_pipelines.regions import open_source
from data_pipelines.regions.joining import Joiner
from data_pipelines.regions.rows import BadRowError, Row
from data_pipelines.regions.usable import usable
from data_pipelines.storage.regions import Regions
from tests.data_pipelines.publishers import bottom_up_row, detections, region_hdf5, region_npz, region_tsv

FOUND = detections(("1", "COCO_val2014_000000000002", "4"), boxes=3)


def rows(path: Path) -> dict[str | None, Row]:
    source = open_source(path)
    return {image_id: source.read(number) for number, image_id in enumerate(source.ids())}


def regions(row: Row, max_regions: int = 100) -> Regions:
    return usable(row, row.layout, 12, int(row.width or 16), max_regions).regions


def written(folder: Path, form: str, found: dict = FOUND) -> Path:
    if form == "tsv":
        return region_tsv(folder / "train.tsv", found)
    if form == "folder of tsv":
        names = list(found)
        region_tsv(folder / "a.tsv.0", {name: found[name] for name in names[:1]})
        region_tsv(folder / "a.tsv.1", {name: found[name] for name in names[1:]})
        return folder
    if form == "npz":
        return region_npz(folder, found)
    return region_hdf5(folder / "regions.h5", found, form)


@pytest.mark.parametrize("form", ["tsv", "folder of tsv", "npz", "groups", "flat", "pos_boxes"])
def test_every_format_gives_the_same_regions(tmp_path: Path, form: str) -> None:
    read = rows(written(tmp_path, form))
    assert sorted(read) == sorted(FOUND)
    for image_id, values in FOUND.items():
        these = regions(read[image_id])
        sides = np.array([values["img_w"], values["img_h"]] * 2)
        np.testing.assert_array_equal(these.features, values["features"].astype(np.float16))
        np.testing.assert_array_equal(these.boxes, (values["boxes"] / sides).astype(np.float32))
        np.testing.assert_array_equal(these.classes, values["objects_id"])
        np.testing.assert_array_equal(these.scores, values["objects_conf"])
        assert len(these.global_feature) == 0


@pytest.mark.parametrize("form", ["npz", "groups", "flat", "pos_boxes"])
def test_arrays_may_have_other_names(tmp_path: Path, form: str) -> None:
    names = {
        "features": "image_features",
        "boxes": "image_bb",
        "objects_id": "cls",
        "objects_conf": "conf",
        "img_h": "image_h",
        "img_w": "image_w",
    }
    other = {i: {new: values[old] for old, new in names.items()} for i, values in FOUND.items()}
    read, expected = rows(written(tmp_path / "b", form, other)), rows(written(tmp_path / "a", form))
    assert {i: regions(row) for i, row in read.items()} == {i: regions(row) for i, row in expected.items()}


@pytest.mark.parametrize("form", ["npz", "groups", "flat", "pos_boxes"])
def test_a_feature_of_the_whole_image_and_no_classes(tmp_path: Path, form: str) -> None:
    found = {
        i: {**{n: values[n] for n in ("features", "boxes", "img_h", "img_w")}, "global_feature": np.full(5, 7.0)}
        for i, values in FOUND.items()
    }
    for row in rows(written(tmp_path, form, found)).values():
        these = regions(row)
        assert these.global_feature.tolist() == [7] * 5
        assert these.classes.tolist() == [-1] * 3
        assert these.scores.tolist() == [1] * 3


@pytest.mark.parametrize("form", ["npz", "groups", "flat", "pos_boxes"])
@pytest.mark.parametrize("name", ["norm_bb", "spatial_features"])
def test_boxes_may_be_fractions(tmp_path: Path, form: str, name: str) -> None:
    found = {}
    for i, values in FOUND.items():
        fractions = values["boxes"] / np.array([values["img_w"], values["img_h"]] * 2)
        found[i] = {"features": values["features"], name: np.concatenate([fractions, np.zeros((3, 3))], 1)}
    for i, row in rows(written(tmp_path, form, found)).items():
        np.testing.assert_array_equal(regions(row).boxes, found[i][name][:, :4].astype(np.float32))


@pytest.mark.parametrize("form", ["npz", "groups", "flat"])
def test_arrays_may_be_padded(tmp_path: Path, form: str) -> None:
    found = {i: {**values, "num_boxes": 1 + k} for k, (i, values) in enumerate(FOUND.items())}
    assert [len(regions(row)) for i, row in sorted(rows(written(tmp_path / "a", form, found)).items())] == [1, 3, 2]
    for values in found.values():
        del values["objects_id"], values["objects_conf"]
        values["features"] = values["features"].copy()
        values["features"][values["num_boxes"] :] = np.nan  # padding is not checked
    assert [len(regions(row)) for i, row in sorted(rows(written(tmp_path / "b", form, found)).items())] == [1, 3, 2]


def test_images_with_different_numbers_of_boxes(tmp_path: Path) -> None:
    found = detections(("1",), boxes=4) | detections(("2",), boxes=1) | detections(("3",), boxes=3)
    read = rows(region_hdf5(tmp_path / "x.h5", found, "pos_boxes"))
    assert {i: len(regions(row)) for i, row in read.items()} == {"1": 4, "2": 1, "3": 3}
    for i, row in read.items():
        np.testing.assert_array_equal(row.features, found[i]["features"])
        assert row.width == found[i]["img_w"]


def test_bottom_up_attention_has_no_classes(tmp_path: Path) -> None:
    read = rows(region_tsv(tmp_path / "x.tsv", FOUND, bottom_up_row))
    for image_id, values in FOUND.items():
        these = regions(read[image_id])
        np.testing.assert_array_equal(these.features, values["features"].astype(np.float16))
        sides = np.array([values["img_w"], values["img_h"]] * 2)
        np.testing.assert_array_equal(these.boxes, (values["boxes"] / sides).astype(np.float32))
        assert these.classes.tolist() == [-1] * 3
        assert these.scores.tolist() == [1] * 3


@pytest.mark.parametrize("head", [b"", b"img_id\timg_h\timg_w\tobjects_id\n", b"\n", b" \n"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_lines_of_a_tsv(tmp_path: Path, head: bytes, end: bytes) -> None:
    """A header and blank lines are not rows; the last row may have no line break."""
    path = region_tsv(tmp_path / "x.tsv", FOUND)
    path.write_bytes(head + path.read_bytes().replace(b"\n", b"\r\n" if end == b"\r\n" else b"\n")[: -len(end) or -1])
    path.write_bytes(path.read_bytes() + end)
    source = open_source(path)
    assert list(source.ids()) == list(FOUND)
    assert source.location(1) == f"{path}, row {2 + bool(head)}"
    assert len(regions(source.read(2))) == 3


def test_the_highest_scoring_come_first_and_the_others_are_skipped(tmp_path: Path) -> None:
    values = detections(("1",), boxes=5)["1"]
    order = [3, 0, 4, 2, 1]
    per_box = ("objects_id", "objects_conf", "attrs_id", "attrs_conf", "boxes", "features")
    shuffled = {name: value[order] if name in per_box else value for name, value in values.items()}
    read = rows(region_tsv(tmp_path / "x.tsv", {"1": values, "2": shuffled}))
    assert regions(read["2"]) == regions(read["1"])
    assert regions(read["2"], 2) == regions(read["1"]).best(2)
    ties = rows(region_npz(tmp_path / "npz", {"1": {**values, "objects_conf": np.full(5, 0.5)}}))
    assert regions(ties["1"], 3).classes.tolist() == values["objects_id"][:3].tolist()


def large(folder: Path, form: str) -> tuple[Path, int]:
    """Forty images with 100 regions of 2,048 numbers; the path and its size in bytes."""
    found = {}
    for i in range(40):
        values = detections((str(i),), boxes=100, size=2048)[str(i)]
        found[str(i)] = values
    path = written(folder, form, found)
    files = [path] if path.is_file() else list(path.iterdir())
    return path, sum(file.stat().st_size for file in files)


@pytest.mark.parametrize("form", ["tsv", "npz", "groups", "flat", "pos_boxes"])
def test_a_row_is_in_memory_at_a_time(tmp_path: Path, form: str) -> None:
    path, size = large(tmp_path, form)
    assert size > 32e6
    tracemalloc.start()
    try:
        source = open_source(path)
        Joiner(source, 100)
        for number in range(40):
            source.read(number)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8e6  # a row has 0.8 to 1.1 MB


def test_rows_that_no_image_needs_are_not_decoded(tmp_path: Path, monkeypatch) -> None:
    """One pass over a TSV reads the ids; later, only the requested rows are read."""
    path, _ = large(tmp_path, "tsv")
    source = open_source(path)
    assert list(source.ids()) == [str(i) for i in range(40)]
    taken = []
    monkeypatch.setattr(os, "pread", lambda fd, n, at, pread=os.pread: taken.append((n, at)) or pread(fd, n, at))
    source.read(17)
    source.read(3)
    assert len(taken) == 2
    assert max(length for length, _ in taken) < 1.2e6


def test_rows_may_be_read_in_any_order_from_threads(tmp_path: Path) -> None:
    import concurrent.futures

    found = detections(tuple(map(str, range(30))))
    for form in ("tsv", "groups", "flat"):
        source = open_source(written(tmp_path / form, form, found))
        ids = list(source.ids())
        order = np.random.default_rng(0).permutation(np.repeat(np.arange(30), 5)).tolist()
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for number, row in zip(order, pool.map(source.read, order), strict=True):
                np.testing.assert_array_equal(row.features, found[ids[number]]["features"])


def test_hdf5_without_h5py(tmp_path: Path, monkeypatch) -> None:
    path = region_hdf5(tmp_path / "x.h5", FOUND)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError) as error:
        open_source(path)
    assert str(error.value) == (
        f"--regions={path} is HDF5, which takes h5py; install it with `pip install 'pixelbert_jax[regions]'`."
    )


def test_h5py_is_imported_for_hdf5_only(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert len(rows(written(tmp_path, "tsv"))) == 3


def nothing(folder: Path) -> Path:
    return folder


def only_npy(folder: Path) -> Path:
    np.save(folder / "1.npy", np.zeros((2, 3)))
    return folder


def both_kinds(folder: Path) -> Path:
    region_npz(folder, FOUND)
    region_tsv(folder / "x.tsv", FOUND)
    return folder


def other_file(folder: Path) -> Path:
    (folder / "x.pkl").write_bytes(b"\x80\x04")
    return folder / "x.pkl"


def cut_hdf5(folder: Path) -> Path:
    path = region_hdf5(folder / "x.h5", FOUND)
    path.write_bytes(path.read_bytes()[:600])
    return path


def hdf5_without_ids(folder: Path) -> Path:
    import h5py

    path = region_hdf5(folder / "x.h5", FOUND, "pos_boxes")
    with h5py.File(path, "a") as file:
        del file["image_ids"]
    return path


def hdf5_without_ends(folder: Path) -> Path:
    import h5py

    path = region_hdf5(folder / "x.h5", FOUND, "pos_boxes")
    with h5py.File(path, "a") as file:
        del file["pos_boxes"]
    return path


def hdf5_with_other_ends(folder: Path) -> Path:
    import h5py

    path = region_hdf5(folder / "x.h5", FOUND, "pos_boxes")
    with h5py.File(path, "a") as file:
        del file["pos_boxes"]
        file["pos_boxes"] = np.zeros((2, 2), int)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "nowhere", "nowhere is not there; give a .tsv file of bottom-up-attention"),
        (nothing, "has no file of regions; give a .tsv file"),
        (only_npy, r"has no file of regions; .* \.npy files hold no boxes; save each image's arrays as one \.npz"),
        (both_kinds, "has both .tsv and .npz files; move one of the kinds elsewhere"),
        (other_file, "x.pkl is in no known form, or damaged; give"),
        (cut_hdf5, "x.h5 is a damaged HDF5 file .*; copy or make it again"),
        (hdf5_without_ids, "neither a group for each image nor an array of their ids .*; add the array image_ids"),
        (hdf5_without_ends, r"features is \(9, 3\) for 3 images, and there is no pos_boxes .*; make the file again"),
        (hdf5_with_other_ends, r"pos_boxes is \(2, 2\), not \(3, 2\); make the file again"),
    ],
)
def test_what_is_no_source(tmp_path: Path, make, message: str) -> None:
    path = make(tmp_path)
    with pytest.raises(DataError, match=message):
        open_source(path)


def test_a_tsv_of_other_columns(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_bytes(b"1\t2\t3\t4\n5\t6\t7\t8\n")
    with pytest.raises(
        DataError, match=r"No row of .*x\.tsv has the 10 columns of LXMERT \(img_id img_h .* give a file"
    ):
        list(open_source(tmp_path / "x.tsv").ids())


def test_ids_in_hdf5_may_be_numbers(tmp_path: Path) -> None:
    import h5py

    path = region_hdf5(tmp_path / "x.h5", FOUND, "flat")
    with h5py.File(path, "a") as file:
        del file["image_ids"]
        file["ids"] = np.array([139, 2, 4])
    assert list(open_source(path).ids()) == ["139", "2", "4"]


def test_transposed_features_are_read_as_such_and_reported(tmp_path: Path) -> None:
    """A column for each region, as in MCAN's files; a square array is not taken as transposed."""
    region_npz(tmp_path / "plain", detections(("1", "4"), size=5, boxes=3))
    (tmp_path / "turned").mkdir()
    for file in (tmp_path / "plain").glob("*.npz"):
        arrays = dict(np.load(file))
        np.savez(tmp_path / "turned" / file.name, **{**arrays, "features": arrays["features"].T})
    plain, turned = rows(tmp_path / "plain"), rows(tmp_path / "turned")
    for name, row in turned.items():
        assert row.transposed and not plain[name].transposed
        np.testing.assert_array_equal(regions(row).features, regions(plain[name]).features)
        np.testing.assert_array_equal(regions(row).boxes, regions(plain[name]).boxes)
    for folder, expected in (("plain", None), ("turned", True)):
        joiner = Joiner(open_source(tmp_path / folder), 100, lambda: None)
        assert joiner.to_json().get("transposed") is expected
    square = {"features": np.arange(9.0).reshape(3, 3), "boxes": np.array([[0, 0, 4, 4.0]] * 3)}
    (tmp_path / "square").mkdir()
    np.savez(tmp_path / "square" / "1.npz", **square)
    (row,) = rows(tmp_path / "square").values()
    assert not row.transposed
    np.testing.assert_array_equal(row.features, square["features"])


def vinvl_features(found: dict) -> dict[str, np.ndarray]:
    """Features that end with the position of their region, float32."""
    values = {}
    for image_id, of_image in found.items():
        boxes = (of_image["boxes"] / np.array([of_image["img_w"], of_image["img_h"]] * 2)).astype(np.float32)
        sides = boxes[:, 2:] - boxes[:, :2]
        values[image_id] = np.concatenate([of_image["features"], boxes, sides], axis=1).astype(np.float32)
    return values


@pytest.mark.parametrize("form", ["columns", "json"])
def test_vinvl(tmp_path: Path, form: str) -> None:
    lines = []
    for image_id, values in vinvl_features(FOUND).items():
        text = base64.b64encode(values.tobytes()).decode()
        cells = [str(len(values)), text] if form == "columns" else [json.dumps({"num_boxes": 3, "features": text})]
        lines.append("\t".join([image_id, *cells]) + "\n")
    (tmp_path / "train.feature.tsv").write_text("".join(lines))
    read = rows(tmp_path / "train.feature.tsv")
    assert read.keys() == FOUND.keys()
    for image_id, values in FOUND.items():
        these = regions(read[image_id])
        sides = np.array([values["img_w"], values["img_h"]] * 2)
        np.testing.assert_array_equal(these.features, values["features"].astype(np.float32).astype(np.float16))
        np.testing.assert_allclose(these.boxes, values["boxes"] / sides, atol=1e-6)
        assert set(these.classes) == {-1} and set(these.scores) == {1}


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        (["2", base64.b64encode(np.ones((2, 10), np.float32).tobytes()).decode()], "without the region's position"),
        (["2", base64.b64encode(np.ones((2, 6), np.float32).tobytes()).decode()], "without the region's position"),
        (["3", base64.b64encode(np.ones((2, 10), np.float32).tobytes()).decode()], "wrong length"),
        (["x", "AAAA"], "num_boxes is not a number"),
        (['{"num_boxes": 1}'], "JSON without num_boxes and features"),
        (['{"num_boxes": "1", "features": "AAAA"}'], "JSON without num_boxes and features"),
        (["[" * 10_000], "JSON without num_boxes and features"),
        (["a caption"], "JSON without num_boxes and features"),
    ],
)
def test_rows_of_vinvl_that_cannot_be_used(tmp_path: Path, cells: list[str], reason: str) -> None:
    (tmp_path / "a.tsv").write_text("\t".join(["1", *cells]) + "\n")
    source = open_source(tmp_path / "a.tsv")
    assert list(source.ids()) == ["1"]
    with pytest.raises(BadRowError, match=reason):
        source.read(0)
