"""Answers of a fine-tuned model to every question of a split, their scores, and the file to hand in."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from data_pipelines.batches.loader import load_batches
from data_pipelines.batches.pairs import PairBatches
from data_pipelines.order.evaluation_plan import EvaluationPlan
from data_pipelines.storage.records import Records
from data_pipelines.text.answers import AnswerVocabulary
from experiments.evaluation.metrics import nlvr2, vqa
from experiments.evaluation.metrics.any_answer import any_answer_scores
from experiments.evaluation.metrics.daquar import daquar_scores
from experiments.evaluation.metrics.wordnet import WordNet
from experiments.run.canvases import canvas_of
from experiments.run.config import RunConfig, evaluation_rows
from experiments.run.inputs import Vocabularies, held_out_visits, make_batches
from experiments.run.progress import Progress, say
from pixelbert_jax.loading import LoadedModel
from pixelbert_jax.tasks.vqa import VqaConfig
from pixelbert_jax.training.sharding import batch_sharding, replicated


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a model says of one text."""

    label: dict[str, Any]  # the data set's own
    text: str
    answer: str


def predict(
    loaded: LoadedModel, config: RunConfig, words: Vocabularies, records: Records, *, shuffle_images: bool = False
) -> list[Prediction]:
    """Ask every text of a split once, in the order of the records.

    Raises:
      DataError: a record or the file of texts is damaged.
    """
    asked = list(records.texts())
    graphdef, state = nnx.split(loaded.model)
    state = nnx.as_pure(state)
    mesh = jax.tree.leaves(state)[0].sharding.mesh
    plan = EvaluationPlan(
        [canvas_of(records, config.data)],
        rows=-(-evaluation_rows(config) // mesh.size) * mesh.size,
        visits_of_source=[held_out_visits(config, records)],
        seed=0 if shuffle_images else None,  # neighbours may show the same, as the six drawings of an NLVR sentence
    )
    data = dataclasses.replace(config.data, workers=0, max_bad_records=0)  # official scores are of all or none
    maker = make_batches(config, words, [records], data, seed=0, rows=None, held_out=True)
    assert isinstance(maker, PairBatches)
    maker = dataclasses.replace(maker, shuffle_images=shuffle_images)
    ask = jax.jit(
        lambda state, batch: loaded.task.predict(nnx.merge(graphdef, state), batch), out_shardings=replicated(mesh)
    )
    progress, found, cut = Progress(len(plan), 0), {}, 0
    stream = load_batches(plan, maker, data)
    try:
        for step, batch in enumerate(stream):
            chosen_BxK = np.asarray(ask(state, jax.device_put(batch, batch_sharding(mesh))))
            for row, k, text in maker.texts_of(plan[step]):
                where = (int(plan[step].record_B[row]), text)
                record = asked[where[0]]
                cut += len(loaded.tokenizer.pieces(record.texts[text])) > config.data.max_text_length - 2
                number = int(chosen_BxK[row, k])
                answer = words.answers.answers[number] if words.answers else str(bool(number))
                found[where] = Prediction(record.parsed[text], record.texts[text], answer)
            progress.update(step + 1, f"{len(found)} answers")
    finally:
        stream.close()
        progress.close()
    if cut:
        say(f"{cut} of {len(found)} texts were cut to {config.data.max_text_length} word pieces")
    return [found[where] for where in sorted(found)]


def hand_in(
    config: RunConfig,
    answered: list[Prediction],
    split: str,
    output: Path,
    *,
    answers: AnswerVocabulary | None = None,
    wordnet: WordNet | None = None,
) -> dict[str, Any]:
    """Write the official file and return the scores; without labels only their number.

    Args:
      config: of the run.
      answered: predictions for all texts of the split.
      split: its name.
      output: the file.
      answers: that the model chooses from, in visual question answering.
      wordnet: for WUPS of sets of answers.
    """
    if isinstance(config.task, VqaConfig):
        return _questions(config, answered, output, answers, wordnet)
    return _sentences(answered, split, output)


def _questions(
    config: RunConfig,
    answered: list[Prediction],
    output: Path,
    answers: AnswerVocabulary | None,
    wordnet: WordNet | None,
) -> dict[str, Any]:
    said = {p.label["question_id"]: p.answer for p in answered}
    vqa.write_predictions(output, said)
    if not any("answers" in p.label for p in answered):
        return {"questions": len(answered)}
    if config.data.answers_are == "votes":
        return flat(vqa.vqa_scores(said, [p.label for p in answered]))
    right = {p.label["question_id"]: p.label["answers"] for p in answered}
    if config.data.answers_are == "right":
        return any_answer_scores(said, right, answers)
    return daquar_scores({question: [answer] for question, answer in said.items()}, right, wordnet)


def _sentences(answered: list[Prediction], split: str, output: Path) -> dict[str, Any]:
    permuted = [p for p in answered if "permutation" in p.label]
    said = {identifier(p): p.answer == "True" for p in answered}
    labels = {str(p.label["identifier"]): p.label["label"] for p in answered if "label" in p.label}
    if permuted:
        nlvr2.write_nlvr_predictions(output, said, split)
    else:
        nlvr2.write_predictions(output, said)
    if not labels:
        return {"examples": len(answered)}
    if permuted:
        return nlvr2.nlvr_scores(said, labels)
    # Users' own pairs have identifiers of any form, so the data set says which belong together.
    group_of = {identifier(p): p.label["group"] for p in answered}
    return nlvr2.pair_scores(said, labels, group_of.__getitem__)


def identifier(prediction: Prediction) -> str:
    """Of an example, as the metrics take it."""
    label = prediction.label
    return f"{label['identifier']}-{label['permutation']}" if "permutation" in label else str(label["identifier"])


def flat(scores: dict[str, Any]) -> dict[str, Any]:
    """Scores with those of types on a level with the others."""
    found = {}
    for name, value in scores.items():
        found |= {f"{name}/{kind}": v for kind, v in value.items()} if isinstance(value, dict) else {name: value}
    return found
