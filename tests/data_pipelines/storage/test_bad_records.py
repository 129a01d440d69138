"""Damaged records: their rows are padding, all other rows are the same on every host, and each record is reported."""

import dataclasses
import re

import numpy as np
import pytest

from data_pipelines.batches import shared
from data_pipelines.batches.loader import load_batches
from data_pipelines.batches.nlvr2 import Nlvr2Batches
from data_pipelines.batches.pretraining import PretrainingBatches
from data_pipelines.batches.retrieval import RetrievalBatches
from data_pipelines.batches.shared import PROBLEMS
from data_pipelines.batches.vqa import VqaBatches
from data_pipelines.config import DataConfig, SourceConfig
from data_pipelines.errors import BadRecordError, DataError
from data_pipelines.images.resize import ResizeRule
from data_pipelines.order.plan import BatchPlan
from data_pipelines.storage.records import Record
from data_pipelines.text.answers import AnswerVocabulary
from data_pipelines.text.tokenizer import Tokenizer, train_vocabulary
from tests.data_pipelines.fakes import FakeRecords, FilledMemory, image, record

ROWS, UNREADABLE, UNDECODABLE = 6, 2, 4
BROKEN_LABELS = {
    "": "Expecting value",
    '{"answers": ': "Expecting value",
    "[]": "a label that is no JSON object",
    "[" * 100_000: "a label that is nested too deeply",
}
WORDS = [f"w{i}" for i in range(20)]
TOKENIZER = Tokenizer(train_vocabulary([" ".join(WORDS)], 100))
CONFIG = DataConfig(
    train=(SourceConfig("fake"),),
    resize=ResizeRule(48, 64),
    canvases=((64, 64),),
    texts_per_image=2,
    max_text_length=8,
)


class DamagedRecords(FakeRecords):
    """One record cannot be read, and another one has no valid image."""

    def __getitem__(self, i: int) -> Record:
        if i == UNREADABLE:
            raise BadRecordError(f"Record {i} cannot be read")
        found = super().__getitem__(i)
        return dataclasses.replace(found, image=b"no image") if i == UNDECODABLE else found


def records_of(kind: type[FakeRecords]) -> FakeRecords:
    labels = [{"answers": ["red"], "label": True}] * 3
    return kind(
        [record(i, [f"w{3 * i} w1", f"w{3 * i + 1}", f"w{3 * i + 2}"], labels, image(90 + i)) for i in range(ROWS)]
    )


def make(name: str, kind: type[FakeRecords], config: DataConfig = CONFIG, **options):
    common = ((records_of(kind),), TOKENIZER, config, 7)
    match name:
        case "vqa":
            found = common[0][0]
            found.records = [dataclasses.replace(r, second=None) for r in found.records]
            return VqaBatches(*common, answers=AnswerVocabulary(("red",)), **options)
        case "nlvr2":
            return Nlvr2Batches(*common, **options)
        case "retrieval":
            return RetrievalBatches(*common, negatives=4, **options)
        case _:
            return PretrainingBatches(*common, **options)


def plan_of(step: int) -> BatchPlan:
    rows = np.random.default_rng(step).permutation(ROWS).astype(np.int32)
    zeros = np.zeros(ROWS, np.int32)
    return BatchPlan(step=step, canvas=0, source_B=zeros, record_B=rows, pass_B=zeros, visit_B=zeros)


@pytest.mark.parametrize("name", ["pretraining", "vqa", "nlvr2", "retrieval"])
def test_rows_of_damaged_records_are_padding(name):
    whole, damaged = make(name, FakeRecords), make(name, DamagedRecords)
    others_that_changed = 0
    for step in range(6):
        plan = plan_of(step)
        expected, batch = whole(plan), damaged(plan)
        problems = batch.pop(PROBLEMS).tolist()
        bad = np.isin(plan.record_B, (UNREADABLE, UNDECODABLE))
        assert sorted(problems) == [
            "Record 2 cannot be read",
            "fake/4: 8 bytes that are not a readable image; prepare the data set again.",
        ]
        assert PROBLEMS not in expected and batch.keys() == expected.keys()
        padding = make(name, FakeRecords)(dataclasses.replace(plan, record_B=np.full(ROWS, -1, np.int32)))
        for array in batch:
            np.testing.assert_array_equal(batch[array][bad], padding[array][bad], array)
        assert expected["pair_mask"][:, 0].all() and (batch["pair_mask"][:, 0] == ~bad).all()
        for array in ("images", "image_size", *(("label",) if name == "nlvr2" else ())):
            np.testing.assert_array_equal(batch[array][~bad], expected[array][~bad], array)
        others_that_changed += (batch["text"][~bad] != expected["text"][~bad]).any()
    # A text of the unreadable record cannot be the mismatched text of another row.
    assert (others_that_changed > 0) == (name in ("pretraining", "retrieval"))


@pytest.mark.parametrize("name", ["pretraining", "vqa", "retrieval"])
def test_hosts_agree(name):
    """A row is the same on every host, whether the damaged records belong to the host or not."""
    for step in range(6):
        plan = plan_of(step)
        together = make(name, DamagedRecords)(plan)
        found = []
        for first in range(0, ROWS, 2):
            part = make(name, DamagedRecords, rows=(first, first + 2))(plan)
            found += part.pop(PROBLEMS, np.array([])).tolist()
            for array, rows in part.items():
                np.testing.assert_array_equal(rows, together[array][first : first + 2], array)
        assert found == together[PROBLEMS].tolist()


@pytest.mark.parametrize("name", ["pretraining", "vqa", "nlvr2", "retrieval"])
def test_none_may_be_damaged(name):
    config = dataclasses.replace(CONFIG, max_bad_records=0)
    with pytest.raises(BadRecordError, match=r"Record 2|fake/4"):
        make(name, DamagedRecords, config)(plan_of(0))


@pytest.mark.parametrize(
    ("name", "label", "what"),
    [
        *((name, label, what) for name in ("vqa", "nlvr2") for label, what in BROKEN_LABELS.items()),
        ("vqa", '{"answers": "red"}', "answers that are no list of texts"),
        ("vqa", '{"answers": [1]}', "answers that are no list of texts"),
        ("vqa", '{"answers": null}', "answers that are no list of texts"),
    ],
)
def test_rows_of_damaged_labels_are_padding(name, label, what):
    """Only rows with this label are padding; the other texts of the record are used."""
    whole, damaged = make(name, FakeRecords), make(name, FakeRecords)
    records = damaged.sources[0].records
    records[3] = dataclasses.replace(records[3], labels=(records[3].labels[0], label, records[3].labels[2]))
    strict = dataclasses.replace(damaged, config=dataclasses.replace(CONFIG, max_bad_records=0))
    seen = set()
    for step in range(4):
        plan = dataclasses.replace(plan_of(step), pass_B=np.full(ROWS, step))
        expected, batch = whole(plan), damaged(plan)
        (row,) = np.flatnonzero(plan.record_B == 3)
        affected = 1 in damaged.texts_of_row(plan, row, 3)
        seen.add(affected)
        problem = f"fake/3: the label of text 1 is damaged ({what}"
        if affected:
            assert batch.pop(PROBLEMS)[0].startswith(problem)
            with pytest.raises(BadRecordError, match=re.escape(problem)):
                strict(plan)
        others = np.arange(ROWS) != row
        for array in expected:
            np.testing.assert_array_equal(batch[array][others], expected[array][others], array)
            assert affected or np.array_equal(batch[array], expected[array]), array
        assert not affected or not (batch["pair_mask"][row].any() or batch["images"][row].any())
    assert seen == {False, True}


def test_errors_that_are_no_damage_are_raised():
    """Such as data of another task."""
    maker = make("vqa", FakeRecords)
    maker.sources[0].records = [dataclasses.replace(r, labels=()) for r in maker.sources[0].records]
    with pytest.raises(DataError, match="without labels"):
        maker(plan_of(0))


def test_a_replaced_image_that_is_damaged():
    """The row that needs it is padding, although its own record is not damaged."""
    config = dataclasses.replace(CONFIG, replaced_images=1.0)
    padding_with_whole_record = 0
    for step in range(12):
        plan = plan_of(step)
        batch = make("pretraining", DamagedRecords, config)(plan)
        for row, number in enumerate(plan.record_B):
            if batch["pair_mask"][row, 0]:
                assert number != UNREADABLE and batch["image_size"][row].tolist() == [48, 64]
            else:
                padding_with_whole_record += number not in (UNREADABLE, UNDECODABLE)
    assert padding_with_whole_record


def test_problems_come_from_processes_too():
    plans = [plan_of(step) for step in range(3)]
    maker = make("pretraining", DamagedRecords)
    stream = load_batches(plans, maker, dataclasses.replace(CONFIG, workers=1))
    try:
        for plan, batch in zip(plans, stream, strict=True):
            assert batch[PROBLEMS].tolist() == maker(plan)[PROBLEMS].tolist()
    finally:
        stream.close()


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("name", ["pretraining", "vqa", "nlvr2", "retrieval"])
def test_no_image_has_old_content_of_its_memory(name, shuffle, monkeypatch):
    """Margins, padding rows, damaged rows and rows without an image are written, too."""

    wide = dataclasses.replace(CONFIG, canvases=((64, 80),))
    maker = make(name, DamagedRecords, wide, **({"shuffle_images": True} if shuffle and name != "retrieval" else {}))
    for kept in (range(ROWS), (0, 1, UNDECODABLE), (1,)):  # the last plan has no other row with an image
        plan = plan_of(0)
        plan = dataclasses.replace(plan, record_B=np.where(np.isin(plan.record_B, kept), plan.record_B, -1))
        made = []
        for value in (0, 255):
            monkeypatch.setattr(shared, "_memory", FilledMemory(value))
            made.append(maker(plan))
        for field in made[0]:
            np.testing.assert_array_equal(made[0][field], made[1][field])
        not_black = made[0]["images"].reshape(ROWS, -1).any(1)
        assert not_black.any() != (shuffle and name != "retrieval" and kept == (1,))
