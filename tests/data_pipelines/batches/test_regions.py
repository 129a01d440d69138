"""Batches of regions: the regions of a row, masked regions, and replaced images."""

import dataclasses

import numpy as np
import pytest

from data_pipelines.batches.pretraining import PretrainingBatches, comparable
from data_pipelines.batches.regions_pretraining import RegionsPretrainingBatches
from data_pipelines.batches.retrieval import RetrievalBatches
from data_pipelines.batches.visuals import PixelVisuals, visuals_of
from data_pipelines.config import DataConfig
from data_pipelines.datasets import shapes_regions
from data_pipelines.errors import DataError
from data_pipelines.order.plan import BatchPlan
from data_pipelines.preparation.run import prepare
from data_pipelines.storage.records import Record, open_records
from data_pipelines.storage.regions import Regions
from data_pipelines.text.tokenizer import Tokenizer, train_vocabulary
from pixelbert_jax.config import ImageBertConfig, RegionsConfig, TextConfig
from pixelbert_jax.tasks.regions_pretraining import RegionsPretrainingConfig
from pixelbert_jax.tasks.registry import TASKS, task_name
from pixelbert_jax.tasks.retrieval import RetrievalConfig
from tests.data_pipelines.batches.test_downstream import CONFIG as PIXELS
from tests.data_pipelines.batches.test_downstream import TOKENIZER, FakeRecords, assert_same, one_batch, record
from tests.data_pipelines.batches.test_pretraining import originals
from tests.pixelbert_jax.helpers import assert_fields

K, SLOTS, SIZE, GLOBAL, CLASSES = 3, 4, 6, 3, 7
CONFIG = dataclasses.replace(PIXELS, regions=SLOTS, texts_per_image=K, mask_rate=0.3)
RECORDS = 12


def regions(number: int, count: int, size: int = SIZE, unknown: int = 0) -> Regions:
    """Features, boxes, classes and the global feature identify the image; the last `unknown` regions have no class."""
    place = np.arange(count)
    corner = np.stack([place, place + number], 1) / 64
    return Regions(
        features=(16 * number + place[:, None] + np.arange(size) / 16).astype(np.float16),
        boxes=np.concatenate([corner, corner + 0.25], 1).astype(np.float32),
        classes=np.where(place < count - unknown, (number + place) % CLASSES, -1).astype(np.int32),
        scores=(1 - place / 64).astype(np.float32),
        global_feature=np.full(GLOBAL, 100 + number, np.float16),
    )


class RegionRecords(FakeRecords):
    """Records in memory with regions."""

    def __init__(self, records: list[Record], size: int = SIZE, global_size: int = GLOBAL):
        super().__init__(records)
        self.index = dataclasses.replace(self.index, region_size=size, global_size=global_size, region_classes=CLASSES)


def with_regions(number: int, texts: list[str], count: int = SLOTS + 1, **options) -> Record:
    return dataclasses.replace(record(number, texts), regions=regions(number, count, **options))


def scenes(records: int = RECORDS) -> RegionRecords:
    """Images with five different texts and two to six regions."""
    return RegionRecords(
        [with_regions(i, [f"w{5 * i + k} what is it ?" for k in range(5)], 2 + i % 5) for i in range(records)]
    )


def maker(records: RegionRecords | None = None, kind: type = RegionsPretrainingBatches, **fields):
    """A maker of batches; the options are fields of DataConfig and of the batches."""
    own = {name: fields.pop(name) for name in ("rows", "shuffle_images", "negatives", "seed") if name in fields}
    config = dataclasses.replace(CONFIG, **fields)
    return kind((records or scenes(),), TOKENIZER, config, **{"seed": 3} | own)


def plan_of(rows: int = RECORDS, step: int = 0) -> BatchPlan:
    """A plan with one row per record and with a text that changes at every step."""
    return dataclasses.replace(one_batch(list(range(rows)), step), pass_B=np.full(rows, step))


def image_numbers(batch: dict) -> list[int]:
    """Number of the image whose regions each row has."""
    return [int(feature) // 16 for feature in batch["regions"][:, 0, 0]]


# The regions of a row.


def test_the_highest_scoring_regions_with_padding():
    """The first regions are used; for an image with fewer, the other slots are empty."""
    batch = maker()(plan_of())
    assert batch["regions"].shape == (RECORDS, SLOTS, SIZE) and image_numbers(batch) == list(range(RECORDS))
    for row in range(RECORDS):
        all_of_it = regions(row, 2 + row % 5)
        count = min(SLOTS, len(all_of_it))
        np.testing.assert_array_equal(batch["region_mask"][row], np.arange(SLOTS) < count)
        for name, expected in (("regions", all_of_it.features), ("boxes", all_of_it.boxes)):
            np.testing.assert_array_equal(batch[name][row, :count], expected[:count])
            assert not batch[name][row, count:].any()
        np.testing.assert_array_equal(batch["region_class"][row, :count], all_of_it.classes[:count])
        assert not batch["region_class"][row, count:].any() and not batch["region_target"][row, :, count:].any()
    assert set(batch["region_mask"].sum(1)) == {2, 3, 4} and "whole" not in batch


def test_whole_images():
    """The mean of the regions that are masked in no text of the row, or the stored feature; zero in padding rows."""
    plan = dataclasses.replace(plan_of(), record_B=np.r_[np.arange(RECORDS - 1), -1])
    mean, stored = (maker(whole_image=kind)(plan) for kind in ("mean", "stored"))
    assert mean["whole"].shape == (RECORDS, SIZE) and stored["whole"].shape == (RECORDS, GLOBAL)
    assert mean["whole"].dtype == stored["whole"].dtype == np.float16
    for row in range(RECORDS - 1):
        features = regions(row, 2 + row % 5).features[:SLOTS].astype(np.float64)
        features = features[~mean["region_zeroed"][row].any(0)[: len(features)]]
        expected = features.mean(0) if len(features) else np.zeros(SIZE)
        np.testing.assert_allclose(mean["whole"][row], expected, rtol=1e-3)
        np.testing.assert_array_equal(stored["whole"][row], np.full(GLOBAL, 100 + row))
    assert not mean["whole"][-1].any() and not stored["whole"][-1].any()
    assert_same(*({name: b[name] for name in b if name != "whole"} for b in (mean, stored)))


def test_padding_rows_have_no_regions():
    plan = dataclasses.replace(plan_of(), record_B=np.r_[np.arange(RECORDS - 2), -1, -1])
    for kind in (RegionsPretrainingBatches, RetrievalBatches):
        batch = maker(kind=kind, texts_per_image=K if kind is RegionsPretrainingBatches else 1)(plan)
        for name in ("regions", "boxes", "region_mask", "pair_mask"):
            assert not batch[name][-2:].any() and batch[name][:-2].any((1, -1)[: batch[name].ndim - 1]).all(), name
    for name in ("region_class", "region_target", "region_zeroed"):
        assert not maker()(plan)[name][-2:].any()


def test_sources_without_fitting_regions_are_refused():
    without = FakeRecords([record(0, ["w1"])])
    cases = [
        ((without,), {}, "has no regions, but data.regions=4; prepare it with --regions"),
        ((scenes(), without), {}, "has no regions, but data.regions=4"),
        (
            (scenes(), RegionRecords([with_regions(0, ["w1"], size=SIZE + 2)], SIZE + 2)),
            {},
            r"The regions of the data sets differ: 6 numbers in .* and 8 numbers in .*; use regions of one detector",
        ),
        (
            (RegionRecords(scenes().records, global_size=0),),
            {"whole_image": "stored"},
            "has no feature of the whole image; set data.whole_image to 'mean'",
        ),
    ]
    for sources, fields, message in cases:
        with pytest.raises(DataError, match=message) as error:
            visuals_of(sources, dataclasses.replace(CONFIG, **fields))
        assert "\n" not in str(error.value)
    assert visuals_of((scenes(), scenes()), CONFIG).size == SIZE
    assert visuals_of((without, scenes()), PIXELS) == PixelVisuals(PIXELS)
    damaged = RegionRecords([record(0, ["w1 w2"]), *scenes().records[1:]])
    with pytest.raises(DataError, match="fake/0 has no regions; prepare its data set with --regions"):
        maker(damaged)(plan_of())


def test_bad_configurations_are_refused():
    cases = [
        ({"regions": -1}, "data.regions=-1 with data.whole_image='none'"),
        (
            {"regions": 0, "whole_image": "mean"},
            "data.regions=0 with data.whole_image='mean': set the first above 0",
        ),
        ({"region_mask_rate": 0.0}, "data.region_mask_rate=0.0 must be between 0 and 1"),
        ({"region_mask_rate": 1.0}, "data.region_mask_rate=1.0 must be between 0 and 1"),
        ({"region_keep_rate": 1.1}, r"data.region_keep_rate=1.1 must be in \[0, 1\]"),
        ({"replaced_images": -0.1}, r"data.replaced_images=-0.1 must be in \[0, 1\]"),
    ]
    for fields, message in cases:
        with pytest.raises(DataError, match=message):
            dataclasses.replace(CONFIG, **fields)
    assert CONFIG.all_canvases == ((0, 0),) != PIXELS.all_canvases


# Which regions are masked.


def test_a_region_without_a_class():
    """It gets class 0, because the task needs a valid class index."""
    records = RegionRecords([with_regions(i, [f"w{i} what"], 4, unknown=i) for i in range(RECORDS)][:5])
    batch = maker(records, texts_per_image=1)(plan_of(5))
    assert batch["region_class"].min() == 0
    for row in range(5):
        known = regions(row, 4, unknown=row).classes
        np.testing.assert_array_equal(batch["region_class"][row], np.where(known < 0, 0, known))


def test_rates_of_masked_and_kept_regions():
    """For each text, a share of the existing regions is masked; a share of these keeps its feature."""
    for mask_rate, keep_rate in ((0.15, 0.1), (0.5, 0.75)):
        make = maker(region_mask_rate=mask_rate, region_keep_rate=keep_rate)
        batches = [make(plan_of(step=step)) for step in range(40)]
        target, zeroed = (np.stack([b[name] for b in batches]) for name in ("region_target", "region_zeroed"))
        there = np.stack([np.repeat(b["region_mask"][:, None], K, 1) for b in batches])
        assert not (target & ~there).any() and not (zeroed & ~target).any()
        deviation = np.sqrt(mask_rate * (1 - mask_rate) / there.sum())
        assert abs(target[there].mean() - mask_rate) < 4 * deviation
        deviation = np.sqrt(keep_rate * (1 - keep_rate) / target.sum())
        assert abs(1 - zeroed[target].mean() - keep_rate) < 4 * deviation
        both = (target[:, :, 0] & target[:, :, 1])[
            there[:, :, 0]
        ].mean()  # the masks of two texts of a row are independent
        assert abs(both - mask_rate**2) < 4 * np.sqrt(mask_rate**2 / there[:, :, 0].sum())
        places = target.mean((0, 2))[there[0, :, 0]]
        assert places.min() > 0 and (target[0] != target[1]).any()


def test_all_or_none_keep_their_features():
    kept, zeroed = (maker(region_keep_rate=rate)(plan_of()) for rate in (1.0, 0.0))
    assert kept["region_target"].any() and not kept["region_zeroed"].any()
    np.testing.assert_array_equal(zeroed["region_zeroed"], zeroed["region_target"])
    np.testing.assert_array_equal(zeroed["region_target"], kept["region_target"])


MASKS = ("region_target", "region_zeroed")


def test_masks_depend_on_seed_step_and_row_alone():
    """They do not depend on texts or other rows; other seeds, steps and rows have other masks."""
    batch = maker()(plan_of())
    others = [maker(mask_rate=0.6), maker(max_text_length=5), maker(replaced_images=0.0, whole_image="mean")]
    for other in others:
        for name in MASKS:
            np.testing.assert_array_equal(other(plan_of())[name], batch[name])
    turned = dataclasses.replace(plan_of(), record_B=np.r_[np.arange(6), np.arange(6)[::-1] + 6])
    for name in MASKS:
        np.testing.assert_array_equal(maker()(turned)[name][:6], batch[name][:6])
    for changed in (maker(seed=4)(plan_of()), maker()(plan_of(step=1))):
        assert (changed["region_target"] != batch["region_target"]).any()
    same = RegionRecords([with_regions(i, [f"w{i} what"], 4) for i in range(8)])
    target = maker(same, texts_per_image=1, region_mask_rate=0.5)(plan_of(8))["region_target"]
    assert len({row.tobytes() for row in target}) > 4


@pytest.mark.parametrize("replaced", [0.0, 0.5])
def test_tokens_and_labels_do_not_depend_on_regions(replaced):
    """They are the same as for a model of pixels, for all rates of regions."""
    fields = {"replaced_images": replaced}
    batch = maker(**fields)(plan_of())
    other = maker(region_mask_rate=0.6, region_keep_rate=0.5, regions=2, **fields)(plan_of())
    pixels = maker(kind=PretrainingBatches, regions=0, **fields)(plan_of())
    words = pixels.keys() - {"images", "image_size"}
    assert words == {"text", "text_mask", "pair_mask", "itm_label", "mlm_position", "mlm_target", "mlm_mask"}
    for each in (other, pixels):
        assert_same(*({name: b[name] for name in words} for b in (batch, each)))


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_together_load_what_one_host_loads(hosts):
    fields, share = {"replaced_images": 0.5, "whole_image": "mean"}, RECORDS // hosts
    for step in range(3):
        whole = maker(**fields)(plan_of(step=step))
        parts = [maker(rows=(i * share, (i + 1) * share), **fields)(plan_of(step=step)) for i in range(hosts)]
        assert_same(whole, {name: np.concatenate([part[name] for part in parts]) for name in whole})


# Replaced images.


def pairs_of(make, batch: dict) -> tuple[np.ndarray, np.ndarray]:
    """Number of the image of each row, B, and of the image that each text belongs to, BxK."""
    text_of = {f"w{5 * i + k}": i for i in range(RECORDS) for k in range(5)}
    text_BxK = np.array([[text_of[text.split()[0]] for text in row] for row in originals(make, batch)])
    return np.array(image_numbers(batch)), text_BxK


@pytest.mark.parametrize("texts", [1, 3])
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_half_of_the_pairs_mismatch_and_a_share_of_them_by_their_image(share, texts):
    """Either the image of a row is replaced for all its texts, or single texts; the labels agree."""
    make = maker(replaced_images=share, texts_per_image=texts)
    rows, replaced_rows, sources = np.arange(RECORDS), set(), set()
    for step in range(10):
        batch = make(plan_of(step=step))
        image_B, text_BxK = pairs_of(make, batch)
        label = batch["itm_label"]
        assert label.sum() == RECORDS * texts / 2
        np.testing.assert_array_equal(label == 1, text_BxK == image_B[:, None])
        replaced = image_B != rows
        assert replaced.sum() == round(share * RECORDS / 2)
        np.testing.assert_array_equal(text_BxK[replaced], np.repeat(rows[replaced, None], texts, 1))
        replaced_rows |= set(rows[replaced])
        sources |= set(image_B[replaced])
        for row in range(RECORDS):
            np.testing.assert_array_equal(batch["boxes"][row, 0], regions(image_B[row], 4).boxes[0])
            assert batch["region_class"][row, 1] == (image_B[row] + 1) % CLASSES
            assert batch["region_mask"][row].sum() == min(SLOTS, 2 + image_B[row] % 5)
    assert len(replaced_rows) > 8 or share < 0.5
    assert len(sources) > 6 or share < 0.5


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("texts", [1, 2, 3, 4])
def test_half_of_the_pairs_where_it_does_not_come_out_even(rows, texts):
    """At most half of the pairs are mismatched, rounded down."""
    for share in (0.0, 0.4, 0.9, 1.0):
        make = maker(replaced_images=share, texts_per_image=texts)
        label = make(plan_of(rows))["itm_label"]
        possible = rows * texts // 2 if rows > 1 else 0
        assert (label == 0).sum() == possible, share


def test_replaced_images_share_neither_image_nor_words():
    """Two records are the same photograph, and two others share a text up to case and full stop."""
    texts = (["w1 w1"], ["w2 w2"], ["w3 w3"], ["W3  w3 .", "w4 w4"], ["w5 w5"])
    records = [with_regions(i, each, 4) for i, each in enumerate(texts)]
    records[1] = dataclasses.replace(records[1], image_id=records[0].image_id)
    make = maker(RegionRecords(records), replaced_images=1.0, texts_per_image=1)
    seen = {row: set() for row in range(5)}
    for step in range(80):
        batch = make(plan_of(5, step))
        texts = originals(make, batch)
        for row, image in enumerate(image_numbers(batch)):
            assert comparable(texts[row, 0]) in map(comparable, records[row].texts)
            assert batch["itm_label"][row, 0] == (image == row)
            if image != row:
                seen[row].add(image)
    assert seen == {0: {2, 3, 4}, 1: {2, 3, 4}, 2: {0, 1, 4}, 3: {0, 1, 4}, 4: {0, 1, 2, 3}}


def test_an_image_stays_where_no_other_fits():
    """Its pairs are matched, and the labels agree."""
    records = [with_regions(i, ["w1 w1"], 4) for i in range(2)]
    batch = maker(RegionRecords(records), replaced_images=1.0, texts_per_image=1)(plan_of(2))
    assert batch["itm_label"].all() and image_numbers(batch) == [0, 1]


def test_images_of_pixels_can_be_replaced_too():
    make = maker(kind=PretrainingBatches, regions=0, replaced_images=0.5, texts_per_image=1)
    batch = make(plan_of())
    images = batch["images"][:, 0, 0, 0] - 10
    assert (images != np.arange(RECORDS)).sum() == 3 and (batch["itm_label"] == 0).sum() == 6
    assert not batch["itm_label"][images != np.arange(RECORDS)].any()
    whose = [image_numbers(maker(replaced_images=0.5, texts_per_image=1)(plan_of())), list(images)]
    assert whose[0] == whose[1]


def test_shuffled_images_move_the_regions_but_no_tokens():
    """The control: each row has all regions of the next row, and its own labels and texts."""
    for share in (0.0, 0.5):
        plain, shuffled = (maker(shuffle_images=s, replaced_images=share)(plan_of()) for s in (False, True))
        assert image_numbers(shuffled) == [*range(1, RECORDS), 0]
        of_images = {"regions", "boxes", "region_mask", "region_class", *MASKS}
        assert_same(*({name: b[name] for name in b if name not in of_images} for b in (plain, shuffled)))
        for row in range(RECORDS):
            other = regions((row + 1) % RECORDS, 2 + (row + 1) % RECORDS % 5)
            count = min(SLOTS, len(other))
            np.testing.assert_array_equal(shuffled["region_class"][row, :count], other.classes[:count])
            assert shuffled["region_mask"][row].sum() == count
            assert not shuffled["region_target"][row, :, count:].any()
    alone = maker(shuffle_images=True)(one_batch([2, 2]))
    assert not alone["region_mask"].any() and not alone["region_target"].any() and alone["pair_mask"].all()


# The fields of the tasks.


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Opened records of drawn scenes with regions, and their tokenizer."""
    folder = tmp_path_factory.mktemp("drawn")
    options = {"num_train": 20, "num_validation": 0, "num_test": 0, "regions": "drawn", "num_regions": 5}
    prepare("shapes", folder, options=options, num_threads=2)
    records = open_records(folder, "shapes", "train")
    return records, Tokenizer(train_vocabulary([text for each in records.texts() for text in each.texts], 500))


@pytest.mark.parametrize("whole", ["none", "mean", "stored"])
def test_batches_of_drawn_scenes_fit_the_tasks(drawn, whole):
    records, tokenizer = drawn
    index = records.index
    assert (index.region_size, index.global_size) == (shapes_regions.FEATURE_SIZE, shapes_regions.GLOBAL_SIZE)
    global_size = {"none": 0, "mean": index.region_size, "stored": index.global_size}[whole]
    model = ImageBertConfig(
        RegionsConfig(index.region_size, len(shapes_regions.CLASSES), global_size),
        TextConfig(len(tokenizer.vocabulary), segment=True),
    )
    data = DataConfig(
        train=(), texts_per_image=2, max_text_length=24, regions=8, whole_image=whole, replaced_images=0.5
    )
    retrieval = dataclasses.replace(data, texts_per_image=1)
    cases = [
        (RegionsPretrainingConfig(), RegionsPretrainingBatches((records,), tokenizer, data, 0)),
        (RetrievalConfig(6, 2), RetrievalBatches((records,), tokenizer, retrieval, 0, negatives=6)),
    ]
    for config, make in cases:
        task = TASKS[task_name(config)][1](model, config)
        for plan in (plan_of(8), dataclasses.replace(plan_of(8), record_B=np.r_[np.arange(6), -1, -1])):
            batch = make(plan)
            assert_fields(task, batch)
            assert (batch["boxes"][..., :2] < batch["boxes"][..., 2:])[batch["region_mask"]].all()
            for row in np.flatnonzero(plan.record_B >= 0) if isinstance(config, RetrievalConfig) else ():
                own = records[int(plan.record_B[row])].regions
                np.testing.assert_array_equal(batch["regions"][row, :5], own.features)
                assert batch["region_mask"][row].tolist() == [True] * 5 + [False] * 3
