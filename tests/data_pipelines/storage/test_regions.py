"""Regions in records and in the index: exact, and in the fingerprint only if there are some."""

import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tensorflow_datasets.proto import tf_example_pb2

from data_pipelines.errors import DataError
from data_pipelines.storage.index_writer import write_index
from data_pipelines.storage.records import open_records, parse
from data_pipelines.storage.regions import Regions, from_feature, to_fields

HALVES = st.floats(-60000, 60000, width=16)
FRACTIONS = st.floats(0, 1, width=32)


@st.composite
def some_regions(draw: st.DrawFn) -> Regions:
    number, size, whole = draw(st.integers(1, 5)), draw(st.integers(1, 7)), draw(st.integers(0, 4))
    scores = draw(arrays.arrays(np.float32, number, elements=FRACTIONS))
    return Regions(
        features=draw(arrays.arrays(np.float16, (number, size), elements=HALVES)),
        boxes=draw(arrays.arrays(np.float32, (number, 4), elements=FRACTIONS)),
        classes=draw(arrays.arrays(np.int32, number, elements=st.integers(-1, 2**31 - 1))),
        scores=np.sort(scores)[::-1].copy(),
        global_feature=draw(arrays.arrays(np.float16, whole, elements=HALVES)),
    )


def regions(number: int = 2, size: int = 3, whole: int = 0, seed: int = 0) -> Regions:
    rng = np.random.default_rng(seed)
    return Regions(
        features=rng.normal(size=(number, size)).astype(np.float16),
        boxes=rng.random((number, 4), np.float32),
        classes=rng.integers(0, 30, number).astype(np.int32),
        scores=np.linspace(1, 0.5, number, dtype=np.float32),
        global_feature=rng.normal(size=whole).astype(np.float16),
    )


def serialize(i: int, these: Regions | None) -> bytes:
    example = tf_example_pb2.Example()
    fields = {"image": b"image %d" % i, "height": 10, "width": 20, "image_id": b"x/%d" % i, "texts": b"a text"}
    for name, value in {**fields, **(to_fields(these) if these else {})}.items():
        feature, values = example.features.feature[name], np.ravel(value).tolist()
        kinds = {bytes: feature.bytes_list, int: feature.int64_list, float: feature.float_list}
        kinds[bytes if isinstance(value, bytes) else type(values[0])].value.extend(
            [value] if isinstance(value, bytes) else values
        )
    return example.SerializeToString()


def write(data_dir: Path, *all_regions: Regions | None) -> Path:
    """A prepared data set x with a split train."""
    folder = data_dir / "x" / "1.0.0"
    folder.mkdir(parents=True)
    writer = ArrayRecordWriter(str(folder / "shard"), "group_size:1,uncompressed")
    for i, these in enumerate(all_regions):
        writer.write(serialize(i, these))
    writer.close()
    write_index(folder, {"train": [("shard", len(all_regions))]}, {"name": "x"})
    return folder


@settings(max_examples=60, deadline=None)
@given(some_regions())
def test_round_trip(these: Regions) -> None:
    back = parse(serialize(0, these)).regions
    assert back == these
    assert back.digest() == these.digest()
    for name, array in vars(these).items():
        assert getattr(back, name).dtype == array.dtype, name
        assert getattr(back, name).tobytes() == array.tobytes(), name


@settings(max_examples=30, deadline=None)
@given(some_regions())
def test_round_trip_through_the_features_of_tfds(these: Regions) -> None:
    """As in `prepare`."""
    from data_pipelines.datasets.shapes import Shapes

    builder = Shapes(data_dir="/nowhere", options={"regions": "drawn"})
    features = tfds.features.FeaturesDict(
        {name: feature for name, feature in builder._features().items() if name.startswith(("region", "global"))}
    )
    serializer = tfds.core.ExampleSerializer(features.get_serialized_info())
    serialized = serializer.serialize_example(features.encode_example(to_fields(these)))
    assert from_feature(tf_example_pb2.Example.FromString(serialized).features.feature) == these


def test_equality_compares_every_array() -> None:
    assert regions(whole=2) == regions(whole=2)
    assert regions() != regions(seed=1)
    assert regions() != "regions"
    digests = {regions(whole=2).digest()}
    for name, array in vars(regions(whole=2)).items():
        other = dataclasses.replace(regions(whole=2), **{name: array + array.dtype.type(1)})
        assert other != regions(whole=2), name
        digests.add(other.digest())
    assert len(digests) == 6


def test_pickles() -> None:
    assert pickle.loads(pickle.dumps(regions())) == regions()


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("features", np.zeros((2, 3), np.float32)),
        ("features", np.zeros((3, 3), np.float16)),
        ("features", np.zeros((2, 0), np.float16)),
        ("features", np.zeros(2, np.float16)),
        ("boxes", np.zeros((2, 5), np.float32)),
        ("boxes", np.zeros((2, 4), np.float64)),
        ("classes", np.zeros(2, np.int64)),
        ("scores", np.zeros(3, np.float32)),
        ("global_feature", np.zeros((1, 2), np.float16)),
    ],
)
def test_arrays_of_another_type_or_shape_are_refused(name: str, array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="regions: "):
        dataclasses.replace(regions(), **{name: array})


def test_best() -> None:
    three = regions(3)
    assert len(three.best(2)) == 2
    assert three.best(2).scores.tolist() == three.scores[:2].tolist()
    assert three.best(9) == three


def test_index_of_records_with_regions(tmp_path: Path) -> None:
    highest = dataclasses.replace(regions(1, whole=5), classes=np.array([41], np.int32))
    folder = write(tmp_path, regions(3, whole=5), highest)
    records = open_records(tmp_path, "x", "train")
    assert (records.index.region_size, records.index.global_size, records.index.region_classes) == (3, 5, 42)
    assert records[1].regions == highest
    entry = json.loads((folder / "index.json").read_text())["splits"]["train"]
    assert entry["regions"] == {"mean": 2, "min": 1, "max": 3}


def test_unknown_classes_count_as_none(tmp_path: Path) -> None:
    write(tmp_path, dataclasses.replace(regions(), classes=np.full(2, -1, np.int32)))
    assert open_records(tmp_path, "x", "train").index.region_classes == 0


def test_index_of_records_without_regions(tmp_path: Path) -> None:
    """Nothing is added, so the index is the same as in earlier releases."""
    folder = write(tmp_path, None, None)
    records = open_records(tmp_path, "x", "train")
    assert (records.index.region_size, records.index.global_size, records.index.region_classes) == (0, 0, 0)
    assert records[0].regions is None
    assert "region" not in (folder / "index.json").read_text()


def test_regions_are_in_the_fingerprint(tmp_path: Path) -> None:
    fingerprints = set()
    for i, these in enumerate((None, regions(), regions(seed=1), regions(whole=2))):
        write(tmp_path / str(i), these)
        fingerprints.add(open_records(tmp_path / str(i), "x", "train").index.fingerprint)
    assert len(fingerprints) == 4
    write(tmp_path / "again", regions())
    assert open_records(tmp_path / "again", "x", "train").index.fingerprint in fingerprints


@pytest.mark.parametrize(
    ("these", "message"),
    [
        ((regions(), None), "regions of 1 among 2 records of a split; remove it and prepare"),
        ((regions(), regions(size=4)), r"features of different sizes: \[\(3, 0\), \(4, 0\)\]; remove it"),
        ((regions(), regions(whole=4)), "features of different sizes"),
    ],
)
def test_records_that_do_not_fit_each_other(tmp_path: Path, these: tuple, message: str) -> None:
    with pytest.raises(DataError, match=message):
        write(tmp_path, *these)


@pytest.mark.parametrize("field", ["region_boxes", "region_scores", "region_classes", "region_features"])
def test_damaged_regions_are_a_damaged_record(field: str) -> None:
    example = tf_example_pb2.Example.FromString(serialize(0, regions()))
    feature = example.features.feature[field]
    if field == "region_features":
        feature.bytes_list.value[0] = feature.bytes_list.value[0][:-2]
    else:
        del getattr(feature, feature.WhichOneof("kind")).value[-1:]
    with pytest.raises(ValueError, match="not a record"):
        parse(example.SerializeToString())
