"""Batches of pre-training: the fields of the task, pairs, negatives, and reproducibility."""

import dataclasses
import pickle
from collections.abc import Iterator

import numpy as np
import pytest

from data_pipelines.batches import shared
from data_pipelines.batches.loader import load_batches
from data_pipelines.batches.pretraining import PretrainingBatches, can_mismatch, comparable
from data_pipelines.config import DataConfig, SourceConfig
from data_pipelines.images import resize
from data_pipelines.images.resize import ResizeRule
from data_pipelines.order.evaluation_plan import EvaluationPlan
from data_pipelines.order.plan import BatchPlan, Plan, PlannedSource
from data_pipelines.storage.records import Index, Record, RecordTexts, open_records
from data_pipelines.text.tokenizer import Tokenizer, train_vocabulary
from tests.data_pipelines.contract import assert_fits

K = 3


@pytest.fixture(scope="module")
def maker(shapes_dir) -> PretrainingBatches:
    records = open_records(shapes_dir, "shapes", "train")
    texts = [text for i in range(len(records)) for text in records[i].texts]
    config = DataConfig(
        train=(SourceConfig("shapes"),),
        resize=ResizeRule(48, 48),
        canvases=((48, 48), (48, 64)),
        batch_images=8,
        texts_per_image=K,
        max_text_length=24,
    )
    return PretrainingBatches((records,), Tokenizer(train_vocabulary(texts, 500)), config, seed=3)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan(
        [PlannedSource(np.zeros(40, int), np.ones(40, int))],
        ((48, 48), (48, 64)),
        rows=8,
        seed=3,
        steps=30,
    )


def originals(maker: PretrainingBatches, batch: dict) -> np.ndarray:
    """Texts with the original tokens at the masked positions, BxK strings."""
    text = batch["text"].copy()
    rows, texts, slots = np.nonzero(batch["mlm_mask"])
    text[rows, texts, batch["mlm_position"][rows, texts, slots]] = batch["mlm_target"][rows, texts, slots]
    return np.array([[maker.tokenizer.decode(ids) for ids in row] for row in text])


def assert_same(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_batches_fit_the_tasks_contract(maker, plan):
    for step in range(5):
        assert_fits(maker(plan[step]), len(maker.tokenizer.vocabulary))


def test_half_of_the_pairs_match_and_the_others_do_not(maker, plan):
    for step in range(10):
        batch = maker(plan[step])
        assert batch["itm_label"].sum() == 8 * K / 2
        for row, texts in enumerate(originals(maker, batch)):
            record = maker.sources[0][int(plan[step].record_B[row])]
            own = {maker.tokenizer.decode(maker.tokenizer.encode(t, 24)) for t in record.texts}
            for k in range(K):
                assert (texts[k] in own) == bool(batch["itm_label"][row, k])


def test_images_lie_in_the_top_left_corner(maker, plan):
    batch = maker(plan[0])
    record = maker.sources[0][int(plan[0].record_B[2])]
    np.testing.assert_array_equal(batch["images"][2], resize.decode(record.image))
    wide = dataclasses.replace(plan[0], canvas=1)
    wider = maker(wide)
    np.testing.assert_array_equal(wider["images"][:, :, :48], batch["images"])
    assert wider["images"][:, :, 48:].max() == 0
    assert (wider["image_size"] == 48).all()


def test_the_texts_of_an_image_differ_and_change_with_the_pass(maker):
    def texts(pass_number: int, visit: int) -> list[str]:
        row = BatchPlan(0, 0, *(np.full(2, v) for v in (0, 5, pass_number, visit)))
        record = maker.sources[0][5]
        return maker._own_texts(record, row, 0)

    assert len(set(texts(0, 0))) == K
    assert len({tuple(texts(p, 0)) for p in range(10)}) > 3
    # Two visits with two texts each are a pass over all four texts.
    pairs = dataclasses.replace(maker, config=dataclasses.replace(maker.config, texts_per_image=2))
    row = [BatchPlan(0, 0, *(np.full(2, v) for v in (0, 5, 0, visit))) for visit in (0, 1)]
    seen = [t for r in row for t in pairs._own_texts(maker.sources[0][5], r, 0)]
    assert sorted(seen) == sorted(maker.sources[0][5].texts)


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_together_load_what_one_host_loads(maker, plan, hosts):
    whole = maker(plan[4])
    share = 8 // hosts
    parts = [dataclasses.replace(maker, rows=(host * share, (host + 1) * share))(plan[4]) for host in range(hosts)]
    assert_same(whole, {name: np.concatenate([part[name] for part in parts]) for name in whole})


def test_a_pickled_maker_is_the_same(maker, plan):
    assert_same(maker(plan[1]), pickle.loads(pickle.dumps(maker))(plan[1]))


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("start", [0, 17])
def test_workers_and_start_change_nothing(maker, plan, workers, start):
    config = dataclasses.replace(maker.config, workers=workers, threads=2)
    stream = load_batches(plan, maker, config, start=start)
    try:
        for step in range(start, start + 4):
            assert_same(next(stream), maker(plan[step]))
    finally:
        stream.close()


def test_seed_changes_masks_and_mismatches(maker, plan):
    other = dataclasses.replace(maker, seed=4)
    assert (maker(plan[0])["itm_label"] != other(plan[0])["itm_label"]).any()
    assert (maker(plan[0])["text"] != other(plan[0])["text"]).any()


def test_padding_rows_have_no_effect(maker):
    plan = EvaluationPlan([np.zeros(40, int)], rows=16)
    batch = maker(plan[2])
    assert batch["pair_mask"][:8].all() and not batch["pair_mask"][8:].any()
    assert batch["itm_label"][:8].sum() == 8 * K / 2
    assert batch["images"][8:].max() == 0 and (batch["image_size"][8:] == 1).all()
    assert_fits(batch, len(maker.tokenizer.vocabulary))


def test_shuffled_images_move_the_image_and_nothing_else(maker, plan):
    batch, shuffled = maker(plan[0]), dataclasses.replace(maker, shuffle_images=True)(plan[0])
    np.testing.assert_array_equal(shuffled["images"], np.roll(batch["images"], -1, axis=0))
    assert_same(*({k: v for k, v in b.items() if k != "images"} for b in (batch, shuffled)))


class FakeRecords:
    """Records in memory."""

    def __init__(self, ids: list[str], texts: list[tuple[str, ...]]):
        png = resize.cv2.imencode(".png", np.zeros((48, 48, 3), np.uint8))[1].tobytes()
        self.records = [Record(png, 48, 48, i, t) for i, t in zip(ids, texts, strict=True)]
        n = np.full(len(ids), 48, np.int32)
        self.index = Index(n, n, np.array([len(t) for t in texts], np.int32), "fake")

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, i: int) -> Record:
        return self.records[i]


def fake_maker(maker: PretrainingBatches, ids: list[str], texts: list[tuple[str, ...]]) -> PretrainingBatches:
    return dataclasses.replace(maker, sources=(FakeRecords(ids, texts),))


def one_batch(rows: int, step: int = 0) -> BatchPlan:
    zeros = np.zeros(rows, int)
    return BatchPlan(step, 0, zeros, np.arange(rows), zeros, zeros)


def test_mismatched_texts_share_neither_image_nor_words(maker):
    """Two records are the same photograph, and two others share a text up to case and full stop."""
    fake = fake_maker(
        maker,
        ["coco/1", "coco/1", "coco/2", "coco/3"],
        [
            ("a red circle",),
            ("a red square",),
            ("a blue square",),
            ("A  blue square .", "a pink cross"),
        ],
    )
    taken = set()
    for step in range(40):
        batch = fake(one_batch(4, step))
        texts = originals(fake, batch)
        for row, k in np.argwhere(batch["itm_label"] == 0):
            taken.add((int(row), texts[row, k].removesuffix(" [UNK]")))
    assert {text for row, text in taken if row in (0, 1)} == {"a blue square", "a pink cross"}
    assert {text for row, text in taken if row == 2} == {
        "a red circle",
        "a red square",
        "a pink cross",
    }
    assert {text for row, text in taken if row == 3} == {"a red circle", "a red square"}


def test_texts_are_chosen_by_the_same_random_numbers_in_the_same_order(maker):
    """A run that continues with another version of this code must get the same batches; this spells out the rules."""
    ids = [f"coco/{i // 2}" for i in range(8)]
    texts = [tuple(f"text {i * j % 7}" for j in range(1 + i % 4)) for i in range(8)]
    fake = fake_maker(maker, ids, texts)
    plan = dataclasses.replace(one_batch(8), record_B=np.array([3, 0, -1, 5, 7, 1, -1, 6]), pass_B=np.arange(8))

    def others(row: int, rng: np.random.Generator) -> Iterator[int]:
        for other in rng.permutation(np.flatnonzero(plan.record_B >= 0)):
            if ids[plan.record_B[other]] != ids[plan.record_B[row]]:
                yield other

    def other_text(row: int, rng: np.random.Generator) -> str | None:
        for other in others(row, rng):
            found = texts[plan.record_B[other]]
            for choice in rng.permutation(len(found)):
                if found[choice] not in texts[plan.record_B[row]]:
                    return found[choice]
        return None

    def other_row(row: int, rng: np.random.Generator) -> int | None:
        for other in others(row, rng):
            if not set(texts[plan.record_B[other]]) & set(texts[plan.record_B[row]]):
                return other
        return None

    found = set()
    for row in np.flatnonzero(plan.record_B >= 0):
        count = len(texts[plan.record_B[row]])
        order = np.random.default_rng([2**40, 10, 0, int(plan.record_B[row]), row]).permutation(count)
        assert shared.visited_texts(2**40, plan, row, count, 6) == np.resize(order, 6).tolist()
        first, second = np.random.default_rng(row), np.random.default_rng(row)
        reader = shared.Reader(fake.sources, plan)
        for _ in range(20):
            found.add(text := fake._other_text(reader, row, first))
            assert text == other_text(row, second)
            assert fake._other_row(reader, row, first) == other_row(row, second)
            assert first.bit_generator.state == second.bit_generator.state
    assert len(found) > 4


@pytest.mark.parametrize("key", [(0,), (7, 12, 0, 5), (2**32 - 1, 1), (2**32, 1), (0, 2**70), (3, np.int64(2**40))])
def test_a_key_seeds_what_numpy_seeds(key):
    assert shared.make_rng(*key).bit_generator.state == np.random.default_rng(list(key)).bit_generator.state


def test_a_pair_stays_matched_where_no_other_text_exists(maker):
    fake = fake_maker(maker, ["coco/1", "coco/1"], [("a red circle",), ("a red square",)])
    assert fake(one_batch(2))["itm_label"].all()


def test_comparable():
    assert comparable(" A red  Square. ") == comparable("a red square") != comparable("a red circle")


class OfTexts:
    """Records of which only the texts are used."""

    def __init__(self, *texts: tuple[str, ...]) -> None:
        self._texts = texts

    def texts(self) -> Iterator[RecordTexts]:
        return (RecordTexts(str(i), texts) for i, texts in enumerate(self._texts))


def test_a_mismatched_pair_needs_another_text():
    same = OfTexts(("A dog.", "a cat"), ("a cat", "a  dog"))
    assert not can_mismatch([same]) and not can_mismatch([same, same]) and not can_mismatch([])
    assert can_mismatch([OfTexts(("a dog", "a cat"), ("a dog",))])
    assert can_mismatch([same, OfTexts(("a bird",))])
    assert not can_mismatch([OfTexts(("a product",)) for _ in range(2)])


@pytest.mark.parametrize("rate", [0.5, 1.0])
def test_mirrored_images_and_nothing_else(maker, plan, rate):
    """The choice does not depend on the host; in the next pass, other rows are mirrored."""
    flipping = dataclasses.replace(maker, config=dataclasses.replace(maker.config, flip_rate=rate))
    shares = []
    for step in range(4):
        plain, found = maker(plan[step]), flipping(plan[step])
        assert all(np.array_equal(plain[name], found[name]) for name in plain if name != "images")
        flipped = []
        for image, mirrored, (height, width) in zip(plain["images"], found["images"], plain["image_size"], strict=True):
            same, turned = image[:height, :width], image[:height, :width][:, ::-1]
            assert not np.array_equal(same, turned)
            flipped.append(np.array_equal(mirrored[:height, :width], turned))
            assert flipped[-1] or np.array_equal(mirrored[:height, :width], same)
            assert not mirrored[height:].any() and not mirrored[:, width:].any()
        shares += flipped
        part = dataclasses.replace(flipping, rows=(2, 6))(plan[step])
        np.testing.assert_array_equal(part["images"], found["images"][2:6])
    assert sum(shares) == len(shares) if rate == 1 else 0.2 < np.mean(shares) < 0.8
