"""Batches of the downstream tasks: the fields of the tasks, each question once, labels, images, candidates."""

import dataclasses

import numpy as np
import pytest

from data_pipelines.batches.nlvr2 import Nlvr2Batches
from data_pipelines.batches.pretraining import PretrainingBatches, comparable
from data_pipelines.batches.retrieval import RetrievalBatches
from data_pipelines.batches.shared import shuffled_image_row
from data_pipelines.batches.vqa import VqaBatches
from data_pipelines.config import DataConfig, SourceConfig
from data_pipelines.errors import DataError
from data_pipelines.images.resize import ResizeRule
from data_pipelines.order.evaluation_plan import EvaluationPlan
from data_pipelines.order.plan import BatchPlan
from data_pipelines.text.answers import AnswerVocabulary
from data_pipelines.text.tokenizer import Tokenizer, train_vocabulary
from pixelbert_jax.tasks.nlvr2 import Nlvr2Config
from pixelbert_jax.tasks.retrieval import RetrievalConfig
from pixelbert_jax.tasks.vqa import VqaConfig
from tests.data_pipelines.contract import assert_fits_task
from tests.data_pipelines.fakes import FakeRecords, image, record

K, LENGTH = 3, 12
WORDS = [f"w{i}" for i in range(100)]
TOKENIZER = Tokenizer(train_vocabulary([" ".join(WORDS), "what is it ? red blue ."], 1000))
ANSWERS = AnswerVocabulary(("red", "blue", "2", "cat"))
CONFIG = DataConfig(
    train=(SourceConfig("fake"),),
    resize=ResizeRule(48, 64),
    canvases=((48, 64), (64, 48), (64, 64)),
    texts_per_image=K,
    max_text_length=LENGTH,
)


COUNTS = (1, 4, 7, 3, 2)  # questions of each image


def questions() -> FakeRecords:
    """Every question has its own words and ten equal answers."""
    found, word = [], iter(WORDS)
    for number, count in enumerate(COUNTS):
        texts = [f"{next(word)} what is it ?" for _ in range(count)]
        labels = [{"question_id": f"{number}/{k}", "answers": [ANSWERS.answers[k % 4]] * 10} for k in range(count)]
        found.append(record(number, texts, labels, width=50 + number))
    return FakeRecords(found)


def sentences() -> FakeRecords:
    """Pairs with a left image of 10 + number and a right one of 110 + number, upright."""
    found, word = [], iter(WORDS)
    for number, count in enumerate(COUNTS):
        texts = [f"{next(word)} is it ?" for _ in range(count)]
        labels = [{"identifier": f"{number}/{k}", "label": k % 2 == 0} for k in range(count)]
        found.append(record(number, texts, labels, image(110 + number, 64, 40)))
    return FakeRecords(found)


def vqa_maker(records: FakeRecords | None = None, **fields) -> VqaBatches:
    fields = {"answers": ANSWERS, "answer_slots": 3} | fields
    return VqaBatches((records or questions(),), TOKENIZER, CONFIG, 3, **fields)


def nlvr2_maker(records: FakeRecords | None = None, **fields) -> Nlvr2Batches:
    return Nlvr2Batches((records or sentences(),), TOKENIZER, CONFIG, 3, **fields)


def evaluated_plan(rows: int, canvas: int = 0, **fields) -> EvaluationPlan:
    visits = [-(-np.array(COUNTS) // K)]
    return EvaluationPlan([np.full(len(COUNTS), canvas)], rows=rows, visits_of_source=visits, **fields)


def one_batch(records: list[int], step: int = 0, canvas: int = 0, visits: list[int] | None = None) -> BatchPlan:
    zeros = np.zeros(len(records), int)
    return BatchPlan(step, canvas, zeros, np.array(records), zeros, np.array(visits) if visits else zeros)


def assert_same(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


# Questions and sentences.

CASES = [
    (vqa_maker(), VqaConfig(answers=4, answer_slots=3), 0),
    (nlvr2_maker(), Nlvr2Config(), 2),
    (nlvr2_maker(questions(), images_per_row=1), Nlvr2Config(1), 0),
]


@pytest.mark.parametrize(("maker", "task", "canvas"), CASES)
@pytest.mark.parametrize("evaluation", [False, True])
def test_batches_fit_the_tasks_contract(maker, task, canvas, evaluation):
    maker = dataclasses.replace(maker, evaluation=evaluation)
    for plan in (one_batch([0, 1, 2, 3, 4, 1], canvas=canvas), *evaluated_plan(4, canvas)):
        assert_fits_task(maker(plan), task, len(TOKENIZER.vocabulary))


@pytest.mark.parametrize(("maker", "canvas"), [(case[0], case[2]) for case in CASES[:2]])
@pytest.mark.parametrize("seed", [None, 5])
def test_evaluated_texts_come_exactly_once(maker, canvas, seed):
    """K does not divide the number of questions of most images; all other slots are masked."""
    maker = dataclasses.replace(maker, evaluation=True)
    plan = evaluated_plan(4, canvas, seed=seed)
    seen = []
    for number in range(len(plan)):
        batch, valid = maker(plan[number]), np.zeros((4, K), bool)
        for row, k, text in maker.texts_of(plan[number]):
            of = maker.sources[0][plan[number].record_B[row]]
            assert batch["pair_mask"][row, k]
            decoded = TOKENIZER.decode(batch["text"][row, k])
            assert decoded == of.texts[text]
            image = batch["images"][row] if canvas == 0 else batch["images"][row, 0]
            assert image[0, 0, 0] == 10 + int(of.image_id.split("/")[1])
            valid[row, k] = True
            seen.append(decoded)
        np.testing.assert_array_equal(batch["pair_mask"], valid)
        fillers = plan[number].record_B < 0
        assert batch["images"][fillers].max(initial=0) == 0 and (batch["image_size"][fillers] == 1).all()
    everything = [text for r in maker.sources[0].records for text in r.texts]
    assert sorted(seen) == sorted(everything) and len(seen) == sum(COUNTS)
    assert (seen == everything) == (seed is None)


@pytest.mark.parametrize("evaluation", [False, True])
def test_texts_of_a_batch_are_known_without_reading_records(monkeypatch, evaluation):
    """With two sources; the batch has these texts at these positions."""
    other = FakeRecords([record(0, [f"{word} it ?" for word in WORDS[-5:]], [{"question_id": 0}] * 5)])
    maker = vqa_maker(evaluation=evaluation)
    maker = dataclasses.replace(maker, sources=(*maker.sources, other))
    plan = one_batch([0, -1, 1, 0, 0], visits=[0, 0, 1, 0, 1])
    plan = dataclasses.replace(plan, source_B=np.array([0, 0, 0, 1, 1]))
    batch = maker(plan)
    decoded = {(row, k): TOKENIZER.decode(batch["text"][row, k]) for row, k in np.argwhere(batch["pair_mask"]).tolist()}
    texts = [[r.texts for r in source.records] for source in maker.sources]
    monkeypatch.setattr(FakeRecords, "__getitem__", lambda *_: pytest.fail("read a record"))
    expected = {(row, k): texts[plan.source_B[row]][plan.record_B[row]][text] for row, k, text in maker.texts_of(plan)}
    assert expected == decoded
    assert len(expected) == (1 + 1 + 3 + 2 if evaluation else 4 * K)


def test_rows_of_a_seeded_plan_are_the_same_in_another_order():
    plain, mixed = (
        {
            (int(p.record_B[row]), int(p.visit_B[row])): (p.canvas, int(p.source_B[row]))
            for p in EvaluationPlan(
                [np.array([0, 1, 0]), np.array([1, 1])], rows=2, visits_of_source=[[1, 2, 3], [1, 1]], seed=seed
            )
            for row in range(2)
            if p.record_B[row] >= 0
        }
        for seed in (None, 1)
    )
    assert plain == mixed and list(plain) != list(mixed)


def test_training_visits_use_all_texts_of_an_image():
    """Four questions in two visits of three: each question once, and two of them again."""
    batch = vqa_maker()(one_batch([1, 1], visits=[0, 1]))
    assert batch["pair_mask"].all()
    decoded = {TOKENIZER.decode(ids) for ids in batch["text"].reshape(-1, LENGTH)}
    assert decoded == set(questions()[1].texts)


@pytest.mark.parametrize(("maker", "canvas"), [(case[0], case[2]) for case in CASES[:2]])
@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_together_load_what_one_host_loads(maker, canvas, hosts):
    plan = one_batch([3, 1, 4, 1], canvas=canvas, visits=[0, 0, 0, 1])
    share = 4 // hosts
    for fields in ({}, {"evaluation": True}, {"shuffle_images": True}):
        whole = dataclasses.replace(maker, **fields)
        parts = [dataclasses.replace(whole, rows=(i * share, (i + 1) * share))(plan) for i in range(hosts)]
        assert_same(whole(plan), {name: np.concatenate([part[name] for part in parts]) for name in whole(plan)})


def image_with_answers(*answers: list[str] | None) -> FakeRecords:
    """One image with a question for each list of answers."""
    labels = [{"question_id": k} | ({"answers": a} if a is not None else {}) for k, a in enumerate(answers)]
    return FakeRecords([record(0, [f"{WORDS[k]} ?" for k in range(len(answers))], labels)])


def slots(batch: dict) -> list[dict[int, float]]:
    """Answer -> score in the used slots, for each question."""
    pairs = zip(batch["answer"][0], batch["answer_score"][0], strict=True)
    return [{int(a): round(float(s), 3) for a, s in zip(*pair, strict=True) if s} for pair in pairs]


def test_soft_targets_lie_in_the_slots():
    """Votes of ten people; an unknown answer is skipped, and a question without a known answer keeps its row."""
    votes = image_with_answers(
        ["red"] * 1 + ["a cat"] * 2 + ["2"] * 3 + ["dog"] * 4,
        ["dog"] * 10,
        ["blue"] * 4 + ["two"] * 6,
    )
    batch = vqa_maker(votes, evaluation=True)(one_batch([0]))
    assert slots(batch) == [{0: 0.3, 3: 0.6, 2: 0.9}, {}, {1: 1.0, 2: 1.0}]
    assert batch["pair_mask"].all()
    assert batch["answer"][0, 0].tolist() == [2, 3, 0]  # the highest score first
    two = vqa_maker(votes, evaluation=True, answer_slots=2)(one_batch([0]))
    assert slots(two)[0] == {2: 0.9, 3: 0.6}
    assert slots(vqa_maker(votes, evaluation=True, answers=None)(one_batch([0]))) == [{}, {}, {}]


def test_answers_that_are_right():
    given = image_with_answers(["red", "blue"], ["cat"], None)
    votes = vqa_maker(given, evaluation=True)
    right = dataclasses.replace(votes, config=dataclasses.replace(CONFIG, answers_are="right"))
    assert slots(right(one_batch([0]))) == [{0: 1.0, 1: 1.0}, {3: 1.0}, {}]
    sets = dataclasses.replace(votes, config=dataclasses.replace(CONFIG, answers_are="set"))
    assert slots(sets(one_batch([0]))) == slots(right(one_batch([0])))
    assert sets(one_batch([0]))["one_is_enough"].tolist() == [[False, True, True]]
    assert right(one_batch([0]))["one_is_enough"].all() and votes(one_batch([0]))["one_is_enough"].all()
    # With votes, a single answer, as in Visual Genome, is right.
    assert slots(votes(one_batch([0]))) == [{0: 0.3, 1: 0.3}, {3: 1.0}, {}]


def test_labels_of_sentences():
    batch = nlvr2_maker(evaluation=True)(one_batch([1, 1], canvas=2, visits=[0, 1]))
    assert batch["label"].tolist() == [[1, 0, 1], [0, 0, 0]]
    assert batch["pair_mask"].tolist() == [[True] * 3, [True, False, False]]


def test_left_and_right_images():
    batch = nlvr2_maker()(one_batch([2, 4], canvas=2))
    assert batch["images"].shape == (2, 2, 64, 64, 3)
    assert batch["images"][:, :, 0, 0, 0].tolist() == [[12, 112], [14, 114]]
    assert batch["image_size"].tolist() == [[[48, 64], [64, 40]]] * 2
    assert batch["images"][:, 0, 48:].max() == batch["images"][:, 1, :, 40:].max() == 0


def test_another_number_of_images_is_refused():
    for maker, has, needs in ((vqa_maker(sentences()), 2, 1), (nlvr2_maker(questions()), 1, 2)):
        with pytest.raises(DataError, match=rf"has {has} image\(s\), the task needs {needs}; change task.images"):
            maker(one_batch([1], canvas=2))


def test_texts_without_labels_are_refused():
    plain = FakeRecords([record(0, ["what is it ?"])])
    for maker in (vqa_maker(plain), nlvr2_maker(plain, images_per_row=1)):
        with pytest.raises(DataError, match=r"fake/0 has texts without labels; use a data set of this task"):
            maker(one_batch([0]))


def test_a_question_of_200_words_is_cut():
    long = " ".join(WORDS * 2)
    batch = vqa_maker(FakeRecords([record(0, [long], [{"question_id": 0}])]))(one_batch([0]))
    ids = batch["text"][0, 0]
    assert batch["text_mask"][0, 0].all() and (ids[0], ids[-1]) == (TOKENIZER.cls, TOKENIZER.sep)
    assert TOKENIZER.decode(ids) == " ".join(WORDS[: LENGTH - 2])


# The control with shuffled images.


@pytest.mark.parametrize(("maker", "canvas"), [(case[0], case[2]) for case in CASES[:2]])
def test_shuffled_images_are_of_another_record(maker, canvas):
    """Neighbouring rows may be visits of one record; only the image and its size move."""
    plan = one_batch([2, 2, 2, -1, 1, 1, 0, -1], canvas=canvas, visits=[0, 1, 2, 0, 0, 1, 0, 0])
    maker = dataclasses.replace(maker, evaluation=True)
    plain, shuffled = maker(plan), dataclasses.replace(maker, shuffle_images=True)(plan)
    moved = ("images", "image_size")
    assert_same(*({k: v for k, v in b.items() if k not in moved} for b in (plain, shuffled)))
    for name in moved:
        np.testing.assert_array_equal(shuffled[name][[0, 1, 2, 4, 5, 6]], plain[name][[4, 4, 4, 6, 6, 0]])
        np.testing.assert_array_equal(shuffled[name][[3, 7]], plain[name][[3, 7]])


def test_a_shuffled_batch_of_one_record_has_no_image():
    plan = one_batch([2, 2, -1], visits=[0, 1, 0])
    assert [shuffled_image_row(plan, row) for row in (0, 1)] == [None, None]
    same_number = dataclasses.replace(plan, source_B=np.array([0, 1, 0]))
    assert shuffled_image_row(same_number, 0) == 1
    for maker in (vqa_maker(), PretrainingBatches((questions(),), TOKENIZER, CONFIG, 3)):
        batch = dataclasses.replace(maker, shuffle_images=True)(plan)
        assert batch["images"].max() == 0 and (batch["image_size"] == 1).all()
        assert batch["pair_mask"][:2].any(-1).all()


# Retrieval.


def captions() -> FakeRecords:
    """Two records of one photograph, and texts that other records have, too, up to case and full stop."""
    texts = [
        ["w1 w1", "w2 w2", "w3 w3"],
        ["w4 w4", "W5  w5 ."],
        ["w5 w5", "w6 w6"],
        ["w7 w7", "w2 w2"],
        ["w8 w8", "w9 w9", "w10 w10", "w11 w11"],
    ]
    records = [record(number, each) for number, each in enumerate(texts)]
    records[3] = dataclasses.replace(records[3], image_id="fake/0")
    return FakeRecords(records)


def retrieval_maker(negatives: int = 4, **fields) -> RetrievalBatches:
    config = dataclasses.replace(CONFIG, texts_per_image=1)
    return RetrievalBatches((captions(),), TOKENIZER, config, 3, **{"negatives": negatives} | fields)


def candidates_of(batch: dict, row: int) -> list[str]:
    """The candidates of a row."""
    return [TOKENIZER.decode(ids) for ids in batch["text"][row][batch["pair_mask"][row]]]


def test_retrieval_fits_the_tasks_contract():
    for plan in (one_batch([0, 1, 2, 3, 4]), one_batch([4, 1, 4, -1]), one_batch([0, -1])):
        batch = retrieval_maker()(plan)
        assert_fits_task(batch, RetrievalConfig(4, 2), len(TOKENIZER.vocabulary))
        fillers = plan.record_B < 0
        assert not batch["pair_mask"][fillers].any() and batch["images"][fillers].max(initial=0) == 0


def test_candidates_are_texts_of_other_images():
    """The true text first; no text twice, and none equal to another text of the image, even if a record is repeated."""
    records = captions()
    of_photograph = [[0, 3], [1], [2], [0, 3], [4]]
    plan_records = [0, 1, 2, 3, 4, 4, 4]
    trues, others = {row: set() for row in range(7)}, {row: set() for row in range(7)}
    for step in range(60):
        batch = retrieval_maker()(one_batch(plan_records, step, visits=[step % 3, step % 2, 0, 0, 0, 1, 2]))
        assert batch["pair_mask"].all()
        for row, number in enumerate(plan_records):
            first, *rest = candidates_of(batch, row)
            assert batch["images"][row, 0, 0, 0] == 10 + number
            own = {comparable(t) for t in records[number].texts}
            photographs = {comparable(t) for i in of_photograph[number] for t in records[i].texts}
            assert comparable(first) in own
            assert len({comparable(t) for t in rest}) == 4
            assert not {comparable(t) for t in rest} & photographs
            trues[row].add(comparable(first))
            others[row] |= {comparable(t) for t in rest}
    everything = {comparable(t) for r in records.records for t in r.texts}
    assert trues[0] == {"w1 w1", "w2 w2", "w3 w3"} and len(trues[4] | trues[5] | trues[6]) == 3
    assert others[0] == everything - {"w1 w1", "w2 w2", "w3 w3", "w7 w7"}
    assert others[1] == everything - {"w4 w4", "w5 w5"}
    assert others[4] == everything - {comparable(t) for t in records[4].texts}


def test_rows_of_one_photograph_are_a_group():
    group = retrieval_maker()(one_batch([1, 0, 4, 3, -1, 4]))["image_group"]
    assert group[1] == group[3] and group[2] == group[5] and len(set(group[[0, 1, 2]])) == 3


def test_fewer_candidates_than_negatives():
    """All other texts, each once; a single image has none."""
    batch = retrieval_maker(negatives=20)(one_batch([1, 4, 4, -1]))
    assert sorted(candidates_of(batch, 0)[1:]) == sorted(captions()[4].texts)
    assert batch["pair_mask"].sum(1).tolist() == [5, 3, 3, 0]
    assert retrieval_maker()(one_batch([0]))["pair_mask"].tolist() == [[True] + [False] * 4]


@pytest.mark.parametrize("hosts", [2, 4])
def test_retrieval_on_several_hosts_is_that_of_one(hosts):
    plan = one_batch([0, 3, 2, 4], step=7, visits=[2, 1, 0, 1])
    share = 4 // hosts
    whole = retrieval_maker()(plan)
    parts = [retrieval_maker(rows=(i * share, (i + 1) * share))(plan) for i in range(hosts)]
    assert_same(whole, {name: np.concatenate([part[name] for part in parts]) for name in whole})
    other = retrieval_maker()(dataclasses.replace(plan, step=8))
    assert (other["text"] != whole["text"]).any() and (other["text"][:, 0] == whole["text"][:, 0]).all()
