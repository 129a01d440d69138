"""What a run takes from the texts and labels of its data, without reading an image."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from data_pipelines.config import SourceConfig
from data_pipelines.errors import DataError
from data_pipelines.images.resize import ResizeRule
from data_pipelines.preparation.run import prepare
from data_pipelines.storage.records import Records, open_records
from data_pipelines.text.answers import AnswerVocabulary, build_vocabulary
from data_pipelines.text.tokenizer import Tokenizer, train_vocabulary
from experiments.evaluation.predict import Prediction, predict
from experiments.run.build import find_vocabulary
from experiments.run.config import RunConfig
from experiments.tasks.recipe import BatchInputs
from experiments.tasks.vqa import RECIPE
from pixelbert_jax.loading import LoadedModel
from pixelbert_jax.tasks.vqa import VqaConfig
from pixelbert_jax.training.sharding import MeshConfig, make_mesh, replicated
from tests.data_pipelines.publishers import lines, write_image
from tests.experiments.tiny_config import get_config

ANSWERS = ("red", "blue", "green", "2")
IMAGES = 7


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A user's questions, one to five per image; the first image has none with an answer in the list above."""
    folder, number = tmp_path_factory.mktemp("questions"), 0
    entries = []
    for i in range(IMAGES):
        write_image(folder / f"{i}.png", height=40, width=48, format="PNG", seed=i)
        questions = []
        for k in range(1 + i % 5):
            given = [ANSWERS[number % 4], ANSWERS[number % 3]] if i else ["a dog", "dog", "dog"]
            questions.append({"question": f"what is number{number} ?", "answers": given, "question_id": f"{i}/{k}"})
            number += 1
        entries.append({"image": f"{i}.png", "questions": questions})
    lines(folder / "train.jsonl", *entries)
    prepare("vqa", folder / "data", folder, num_threads=2)
    return folder / "data"


@pytest.fixture
def records(prepared) -> Records:
    return open_records(prepared, "vqa", "train")


@pytest.fixture
def reads(monkeypatch) -> list[int]:
    """The numbers of the records that are read from here on."""
    found, read = [], Records.__getitem__
    monkeypatch.setattr(Records, "__getitem__", lambda self, i: found.append(int(i)) or read(self, i))
    return found


def config_of(**data) -> RunConfig:
    config = get_config()
    fields = {"texts_per_image": 2, "resize": ResizeRule(36, 48), "answer_minimum": 1, "vocabulary_size": 1000, **data}
    return dataclasses.replace(config, task=VqaConfig(), data=dataclasses.replace(config.data, **fields))


@pytest.mark.parametrize("answers_are", ["votes", "right"])
def test_answers_of_the_training_data(records, reads, answers_are):
    """As if counted in the records, of all sources in their order."""
    labels = [json.loads(label) for record in [*records, *records] for label in record.labels]
    given = [label["answers"] for label in labels]
    alone = [[answer] for answers in given for answer in answers]
    expected = build_vocabulary(given, 5) if answers_are == "votes" else build_vocabulary(alone, 5, normalize=False)
    reads.clear()
    found = RECIPE.find_answers(config_of(answers_are=answers_are, answer_minimum=5), [records, records])
    assert found.answers == expected.answers and len(found) > 1
    assert not reads


def test_vocabulary_of_the_training_data(records, reads):
    texts = [text for record in records for text in record.texts]
    reads.clear()
    found = find_vocabulary(config_of(), [(SourceConfig("vqa"), records)])
    assert found == train_vocabulary(texts, 1000) and "number1" in found
    assert not reads


def test_labels_are_checked_on_the_first_record(records, reads):
    RECIPE.check_records(config_of(answers_are="right"), records, known=True, scored=True)
    with pytest.raises(DataError, match="too few answers for the accuracy of VQA"):
        RECIPE.check_records(config_of(), records, known=True, scored=True)
    assert not reads


def test_damaged_texts_are_reported_by_all_that_read_them(prepared, records, tmp_path):
    """Also through the trainer of vocabularies, which is no Python."""
    cut = tmp_path / "texts-train.jsonl.gz"
    cut.write_bytes(next(prepared.rglob(cut.name)).read_bytes()[:-20])
    intact, records = records, Records(records._shards, records.index, str(cut))
    for need in (
        lambda: RECIPE.find_answers(config_of(), [records]),
        lambda: find_vocabulary(config_of(), [(SourceConfig("vqa"), records)]),
        lambda: predictions(config_of(), tokenizer_of(intact), records),
    ):
        with pytest.raises(DataError, match=r"texts-train.jsonl.gz is missing or damaged; delete"):
            need()


class LastWord(nnx.Module):
    """Answers a question by its last word but one."""

    def __init__(self, mesh: jax.sharding.Mesh):
        self.shift = nnx.Param(jax.device_put(jnp.ones((), jnp.int32), replicated(mesh)))


class LastWordTask:
    model = SimpleNamespace(dtype="float32")

    def predict(self, module: LastWord, batch: dict[str, jax.Array]) -> jax.Array:
        length = batch["text_mask"].sum(-1, keepdims=True)
        return (jnp.take_along_axis(batch["text"], length - 3, -1)[..., 0] + module.shift[...]) % len(ANSWERS)


def tokenizer_of(records: Records) -> Tokenizer:
    return Tokenizer(train_vocabulary([text for record in records for text in record.texts], 1000))


def predictions(config: RunConfig, tokenizer: Tokenizer, records: Records, **options) -> list[Prediction]:
    answers = AnswerVocabulary(ANSWERS)
    return predict(
        small_model(),
        config,
        lambda data: RECIPE.make_batches(config, BatchInputs(tokenizer, answers, [records], data, evaluation=True)),
        records,
        lambda number: ANSWERS[int(number)],
        visits=RECIPE.evaluation_visits(config, records),
        **options,
    )


def small_model() -> LoadedModel:
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    tokenizer = Tokenizer(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))
    return LoadedModel(LastWord(mesh), tokenizer, LastWordTask(), None, {}, "")


@pytest.mark.parametrize("shuffle_images", [False, True])
def test_predictions_read_each_visited_record_once(records, reads, shuffle_images):
    """Every question in order, with its own label and answer; a batch reads a record once, whatever it shows of it."""
    tokenizer = tokenizer_of(records)
    expected = []
    for record in records:
        for text, label in zip(record.texts, record.labels, strict=True):
            number = (tokenizer.encode(text, 40)[-3] + 1) % len(ANSWERS)
            expected.append(Prediction(json.loads(label), text, ANSWERS[number]))
    reads.clear()
    config = config_of(texts_per_image=5, batch_images=3)
    found = predictions(config, tokenizer, records, shuffle_images=shuffle_images)
    assert found == expected and len({p.answer for p in found}) > 1
    assert np.bincount(reads).tolist() == [1] * IMAGES
