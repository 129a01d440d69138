"""What a pre-training run learned: a table against baselines that must lose, and report.png."""

import collections
import dataclasses
import io
import itertools
import json
import math
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import jax
import matplotlib
import numpy as np

from data_pipelines.batches.pretraining import PretrainingBatches
from data_pipelines.images import resize
from data_pipelines.order.plan import BatchPlan
from data_pipelines.storage.atomic_files import write_atomically
from experiments.run.build import Run
from experiments.run.loop import Stream, batches, evaluate
from experiments.run.metric_writer import read_metrics
from experiments.run.progress import say
from experiments.tasks.registry import recipe_of
from pixelbert_jax.training.step import TrainState

_COUNTED_RECORDS = 20_000  # of the training data, for the guess from the text alone
_COUNTED_BATCHES = 20  # of the training data, for the guess of a region
_BOX_COLOUR = (255, 128, 0)
_LOSSES = ("mlm_loss", "itm_loss", "moc_loss", "mrfr_loss")
_LABELS = {
    "itm_accuracy": "matching",
    "mlm_accuracy_words": "masked words",
    "mlm_accuracy_matched": "masked words",
    "moc_accuracy": "classes of masked regions",
}


def report(run: Run, state: TrainState, workdir: Path) -> dict[str, dict[str, float]]:
    """Print the table, write it to workdir/report.json, draw workdir/report.png, return the figures by column."""
    stream = run.evaluation["eval"]
    shuffled = Stream(
        stream.plan,
        dataclasses.replace(stream.make_batch, shuffle_images=True),
        unmeasurable=stream.unmeasurable,
    )
    columns = {
        "true images": evaluate(run.trainer, state, stream, run.config),
        "shuffled images": evaluate(run.trainer, state, shuffled, run.config),
    }
    words = "mlm_accuracy_words" if run.task.reported_ids else "mlm_accuracy_matched"
    guess = neighbour_guess(run.train.make_batch, stream, run.task.reported_ids)
    columns["text alone"] = {"itm_accuracy": 0.5, words: guess}
    of_shapes = all(source.name in ("shapes", "noisy_shapes") for source in run.config.data.eval)
    label = "masked colour and shape words" if of_shapes else "masked words"
    rows = {"image-text matching": "itm_accuracy", label: words}
    of_regions = recipe_of(run.config).report_metrics
    if of_regions:
        columns["usual region"] = usual_region(run.train, stream, run.task.config.feature_error)
        rows |= {name: key for name, key in of_regions.items() if key in columns["true images"]}
    say(f"\nheld-out accuracy        {'':8}" + "".join(f"{name:>20}" for name in columns))
    for name, key in rows.items():
        say(
            f"{name:32} "
            + "".join(f"{column[key]:20.3f}" if key in column else f"{'':20}" for column in columns.values())
        )
    say("(text alone: matching cannot be guessed; words are guessed from their two neighbours in the training texts)")
    if of_regions:
        say("(usual region: the class that is most frequent, and the mean feature, in the training data)")
    safe = {column: {name: v if math.isfinite(v) else None for name, v in of.items()} for column, of in columns.items()}
    write_atomically(workdir / "report.json", json.dumps(safe, indent=1))
    draw(run, state, workdir, columns, [key for key in rows.values() if key != "mrfr_loss"])
    say(f"\n{workdir / 'report.png'} shows the curves and what the model says of evaluation images")
    return columns


def neighbour_guess(train: PretrainingBatches, stream: Stream, reported_ids: tuple[int, ...]) -> float:
    """Accuracy on evaluation masked words of the word most often seen between the same two neighbours.

    It reads the true neighbours, which the model may find masked: a stronger text-only guess than the model's own.
    """
    encode, length = train.tokenizer.encode, train.config.max_text_length
    chosen = set(reported_ids)
    counts: dict[tuple[int, int], collections.Counter] = collections.defaultdict(collections.Counter)
    for records in train.sources:
        for record in itertools.islice(records.texts(), _COUNTED_RECORDS):
            for text in record.texts:
                ids = encode(text, length).tolist()
                for before, word, after in zip(ids, ids[1:], ids[2:], strict=False):
                    if not chosen or word in chosen:
                        counts[before, after][word] += 1
    right = total = 0
    for plan in stream.plan:
        batch = stream.make_batch(plan)
        text_BxKxT = unmasked(batch)
        used = batch["mlm_mask"] & (batch["itm_label"] == 1)[..., None] & batch["pair_mask"][..., None]
        for row, k, slot in np.argwhere(used):
            place, word = (
                batch["mlm_position"][row, k, slot],
                int(batch["mlm_target"][row, k, slot]),
            )
            if chosen and word not in chosen:
                continue
            neighbours = int(text_BxKxT[row, k, place - 1]), int(text_BxKxT[row, k, place + 1])
            best = counts[neighbours].most_common(1)
            right += bool(best) and best[0][0] == word
            total += 1
    return right / max(1, total)


def usual_region(train: Stream, stream: Stream, feature_error: str) -> dict[str, float]:
    """Figures, on evaluation hidden regions of matched pairs, of one class and one feature for all: the training data's
    most frequent class and mean feature."""
    classes: collections.Counter[int] = collections.Counter()
    total, count = 0.0, 0
    for step in np.unique(np.linspace(0, len(train.plan) - 1, _COUNTED_BATCHES).round().astype(int)):
        batch = train.make_batch(train.plan[int(step)])
        feature_NxF = batch["regions"][batch["region_mask"]].astype(np.float64)
        classes.update(batch["region_class"][batch["region_mask"]].tolist())
        total, count = total + feature_NxF.sum(0), count + len(feature_NxF)
    ((usual, _),), mean_F = classes.most_common(1), total / count
    right = error = regions = 0.0
    for plan in stream.plan:
        batch = stream.make_batch(plan)
        counted = batch["region_zeroed"] & (batch["pair_mask"] & (batch["itm_label"] == 1))[..., None]
        row, _, region = np.nonzero(counted)
        right += (batch["region_class"][row, region] == usual).sum()
        error += np.square(batch["regions"][row, region].astype(np.float64) - mean_F).sum()
        regions += len(row)
    numbers = len(mean_F) if feature_error == "mean" else 1
    return {"moc_accuracy": right / max(1, regions), "mrfr_loss": error / max(1, regions) / numbers}


def unmasked(batch: dict[str, np.ndarray]) -> np.ndarray:
    """The texts of a batch, BxKxT, with the hidden words put back."""
    text_BxKxT = batch["text"].copy()
    row, k, slot = np.nonzero(batch["mlm_mask"])
    text_BxKxT[row, k, batch["mlm_position"][row, k, slot]] = batch["mlm_target"][row, k, slot]
    return text_BxKxT


def draw(
    run: Run,
    state: TrainState,
    workdir: Path,
    columns: dict[str, dict[str, float]],
    accuracies: Sequence[str],
) -> None:
    """Curves above, evaluation images with the model's answers below."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(15, 11), layout="constrained")
    curves, images = figure.subfigures(2, 1, height_ratios=(1, 2.1))
    _draw_curves(curves, read_metrics(workdir / "metrics.jsonl"), columns, accuracies)
    _draw_images(images, run, state)
    png = io.BytesIO()
    figure.savefig(png, dpi=80)
    write_atomically(workdir / "report.png", png.getvalue())
    pyplot.close(figure)


def _draw_curves(
    figure,  # noqa: ANN001
    records: list[dict],
    columns: dict[str, dict[str, float]],
    accuracies: Sequence[str],
) -> None:
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    training = [r for r in records if "loss" in r]
    for name in [name for name in _LOSSES if training and name in training[0]]:
        steps, values = [r["step"] for r in training], np.array([r[name] for r in training], float)
        width = max(1, len(values) // 50)
        smooth = np.convolve(values, np.ones(width) / width, "valid")
        line = loss_axes.plot(steps, values, alpha=0.25)[0]
        loss_axes.plot(steps[width - 1 :], smooth, color=line.get_color(), label=name)
    loss_axes.set(title="training loss", xlabel="step", ylim=(0, None))
    loss_axes.legend()
    evaluation = [r for r in records if "eval/itm_accuracy" in r]
    for name in accuracies:
        label = _LABELS[name]
        points = [(r["step"], np.array(r[f"eval/{name}"], float)) for r in evaluation]  # None where it has no value
        line = accuracy_axes.plot(*zip(*points, strict=True), marker="o", label=label)[0]
        control = columns["shuffled images"][name]
        accuracy_axes.axhline(control, ls="--", color=line.get_color(), lw=1, label=f"{label}, shuffled images")
    accuracy_axes.set(title="evaluation accuracy", xlabel="step", ylim=(0, 1))
    accuracy_axes.legend()


def _draw_images(figure, run: Run, state: TrainState) -> None:  # noqa: ANN001
    all_axes = list(figure.subplots(2, 3).flat)
    for axes in all_axes:
        axes.axis("off")
    for axes, (image, lines) in zip(all_axes, _examples(run, state), strict=False):
        axes.imshow(image)
        wrapped = "\n".join(textwrap.fill(line, 58, subsequent_indent="   ") for line in lines)
        axes.set_title(wrapped, fontsize=8, loc="left", family="monospace")


def _examples(run: Run, state: TrainState) -> Iterator[tuple[np.ndarray, list[str]]]:
    """Held-out images with what the model says of a masked caption and of a false one."""
    stream, tokenizer, module = run.evaluation["eval"], run.tokenizer, run.trainer.module
    forward = jax.jit(lambda state, batch: run.task.forward(module(state), batch, None)[:2])
    loaded = batches(stream, run.trainer, run.config)
    try:
        for plan, on_devices in zip(stream.plan, loaded, strict=False):
            batch = stream.make_batch(plan)
            rows, texts = batch["itm_label"].shape
            token_logits, itm_logits = (np.asarray(x, np.float32) for x in forward(state, on_devices))
            probability = np.asarray(jax.nn.softmax(token_logits, axis=-1)).reshape(
                rows, texts, *token_logits.shape[1:]
            )
            score_BxK = (1 / (1 + np.exp(-itm_logits))).reshape(rows, texts)
            text_BxKxT = unmasked(batch)
            for row in range(rows):
                label_K = batch["itm_label"][row]
                places = {label: np.flatnonzero((label_K == label) & batch["pair_mask"][row]) for label in (1, 0)}
                # Where an image has one text, it is a true one: a row with a false one may show another image.
                if not len(places[1]) or (texts > 1 and not len(places[0])):
                    continue
                true_k = int(places[1][0])
                lines = [f"“{tokenizer.decode(batch['text'][row, true_k])}”"]
                for slot in np.flatnonzero(batch["mlm_mask"][row, true_k]):
                    best = int(probability[row, true_k, slot].argmax())
                    truth = tokenizer.vocabulary[batch["mlm_target"][row, true_k, slot]]
                    guess = tokenizer.vocabulary[best]
                    mark = "right" if guess == truth else f"wrong, {truth}"
                    shown = int(batch["text"][row, true_k, batch["mlm_position"][row, true_k, slot]])
                    if shown == batch["mlm_target"][row, true_k, slot]:
                        mark += "; not hidden"
                    elif shown != tokenizer.mask:
                        mark += f"; replaced at random by {tokenizer.vocabulary[shown]}"
                    lines.append(f"   {guess} {probability[row, true_k, slot, best]:.2f} ({mark})")
                lines.append(f"matches {score_BxK[row, true_k]:.2f}: its own caption")
                for k in places[0][:1]:
                    lines.append(f"matches {score_BxK[row, k]:.2f}: “{tokenizer.decode(text_BxKxT[row, k])}”")
                yield _image(stream, plan, batch, row), lines
    finally:
        loaded.close()


def _image(stream: Stream, plan: BatchPlan, batch: dict[str, np.ndarray], row: int) -> np.ndarray:
    """What the model sees of a row: the image, or the image with the boxes of its regions."""
    if "images" in batch:
        height, width = batch["image_size"][row]
        return batch["images"][row, :height, :width]
    record = stream.make_batch.sources[plan.source_B[row]][int(plan.record_B[row])]
    image = resize.decode(record.image, record.image_id, record.orientation).copy()
    height, width = image.shape[:2]
    for box_4 in batch["boxes"][row][batch["region_mask"][row]]:
        left, top, right, bottom = (round(x) for x in box_4 * [width - 1, height - 1, width - 1, height - 1])
        cv2.rectangle(image, (left, top), (right, bottom), _BOX_COLOUR, max(1, min(height, width) // 300))
    return image
