"""The report of a pre-training run: a table of metrics with baselines that must score lower, and report.png."""

import collections
import dataclasses
import io
import itertools
import json
import math
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import jax
import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

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

Forward = Callable[[TrainState, dict[str, jax.Array]], tuple[jax.Array, jax.Array]]

_COUNTED_RECORDS = 20_000  # of the training data, for the baseline from the text alone
_COUNTED_BATCHES = 20  # of the training data, for the baseline of a region
_BOX_COLOUR = (255, 128, 0)
_LOSSES = ("mlm_loss", "itm_loss", "moc_loss", "mrfr_loss")
_LABELS = {
    "itm_accuracy": "image-text matching",
    "mlm_accuracy_words": "masked tokens",
    "mlm_accuracy_matched": "masked tokens",
    "moc_accuracy": "classes of masked regions",
}


def report(run: Run, state: TrainState, workdir: Path) -> dict[str, dict[str, float]]:
    """Print the table, write it to workdir/report.json, draw workdir/report.png, return the metrics by column."""
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
    mlm_accuracy = "mlm_accuracy_words" if run.task.reported_ids else "mlm_accuracy_matched"
    guess = neighbour_guess(run.train.make_batch, stream, run.task.reported_ids)
    columns["text alone"] = {"itm_accuracy": 0.5, mlm_accuracy: guess}
    of_shapes = all(source.name in ("shapes", "noisy_shapes") for source in run.config.data.eval)
    label = "masked colour and shape words" if of_shapes else "masked tokens"
    rows = {"image-text matching": "itm_accuracy", label: mlm_accuracy}
    of_regions = recipe_of(run.config).report_metrics
    if of_regions:
        columns["usual region"] = usual_region(run.train, stream, run.task.config.feature_error)
        rows |= {name: key for name, key in of_regions.items() if key in columns["true images"]}
    say(f"\nevaluation accuracy      {'':8}" + "".join(f"{name:>20}" for name in columns))
    for name, key in rows.items():
        say(
            f"{name:32} "
            + "".join(f"{column[key]:20.3f}" if key in column else f"{'':20}" for column in columns.values())
        )
    say("(text alone: matching is at chance level; tokens are predicted from their two neighbours in training texts)")
    if of_regions:
        say("(usual region: the class that is most frequent, and the mean feature, in the training data)")
    safe = {column: {name: v if math.isfinite(v) else None for name, v in of.items()} for column, of in columns.items()}
    write_atomically(workdir / "report.json", json.dumps(safe, indent=1))
    draw(run, state, workdir, columns, [key for key in rows.values() if key != "mrfr_loss"])
    say(f"\n{workdir / 'report.png'} shows the curves and the model's predictions for evaluation images")
    return columns


def neighbour_guess(train: PretrainingBatches, stream: Stream, reported_ids: tuple[int, ...]) -> float:
    """Accuracy of a baseline on the masked tokens of the evaluation data.

    It predicts the token that is most frequent between the same two neighbours in the training texts. It reads the true
    neighbours, which may be masked for the model, so it is stronger than the model's own prediction from text alone.
    """
    encode, length = train.tokenizer.encode, train.config.max_text_length
    chosen = set(reported_ids)
    counts: dict[tuple[int, int], collections.Counter] = collections.defaultdict(collections.Counter)
    for records in train.sources:
        for record in itertools.islice(records.texts(), _COUNTED_RECORDS):
            for text in record.texts:
                ids = encode(text, length).tolist()
                for before, token, after in zip(ids, ids[1:], ids[2:], strict=False):
                    if not chosen or token in chosen:
                        counts[before, after][token] += 1
    right = total = 0
    for plan in stream.plan:
        batch = stream.make_batch(plan)
        text_BxKxT = unmasked(batch)
        used = batch["mlm_mask"] & (batch["itm_label"] == 1)[..., None] & batch["pair_mask"][..., None]
        for row, k, slot in np.argwhere(used):
            position, token = batch["mlm_position"][row, k, slot], int(batch["mlm_target"][row, k, slot])
            if chosen and token not in chosen:
                continue
            neighbours = int(text_BxKxT[row, k, position - 1]), int(text_BxKxT[row, k, position + 1])
            best = counts[neighbours].most_common(1)
            right += bool(best) and best[0][0] == token
            total += 1
    return right / max(1, total)


def usual_region(train: Stream, stream: Stream, feature_error: str) -> dict[str, float]:
    """Metrics of a baseline on the zeroed regions of matched pairs of the evaluation data.

    It predicts the training data's most frequent class and mean feature for all regions.
    """
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
    """The texts of a batch, BxKxT, with the original tokens at the masked positions."""
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
    """Draw report.png: curves above, evaluation images with the model's predictions below."""
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
    if loss_axes.lines:
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


def _draw_images(figure, run: Run, state: TrainState, forward: Forward | None = None) -> None:  # noqa: ANN001
    all_axes = list(figure.subplots(2, 3).flat)
    for axes in all_axes:
        axes.axis("off")
    for axes, (image, lines) in zip(all_axes, _examples(run, state, forward), strict=False):
        axes.imshow(image)
        wrapped = "\n".join(textwrap.fill(line, 58, subsequent_indent="   ") for line in lines)
        axes.set_title(wrapped, fontsize=8, loc="left", family="monospace")


class ExamplesDrawer:
    """Draws the first evaluation images with the model's predictions, always the same images."""

    def __init__(self, run: Run) -> None:
        # Threads only, as in `evaluate`: processes would take longer to start.
        config = dataclasses.replace(run.config, data=dataclasses.replace(run.config.data, workers=0))
        self._run, self._forward = dataclasses.replace(run, config=config), _forward(run)

    def __call__(self, state: TrainState) -> np.ndarray:
        """The drawing, HxWx3 uint8."""
        figure = Figure(figsize=(15, 7.5), dpi=80, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        _draw_images(figure, self._run, state, self._forward)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _forward(run: Run) -> Forward:
    """The logits of the masked tokens and of image-text matching, compiled."""

    def logits(state: TrainState, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        module = run.trainer.module(state)
        hidden_NxMxD, itm_logit_N, *_ = run.task.forward(module, batch, None)
        return module.logits_of_tokens(hidden_NxMxD), itm_logit_N

    return jax.jit(logits)


def _examples(run: Run, state: TrainState, forward: Forward | None = None) -> Iterator[tuple[np.ndarray, list[str]]]:
    """Evaluation images with the model's predictions for a masked true caption and for a false one."""
    stream, tokenizer, forward = run.evaluation["eval"], run.tokenizer, forward or _forward(run)
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
                texts_of = {label: np.flatnonzero((label_K == label) & batch["pair_mask"][row]) for label in (1, 0)}
                # With one text per image the text must be true: a row with a false one may have another image.
                if not len(texts_of[1]) or (texts > 1 and not len(texts_of[0])):
                    continue
                true_k = int(texts_of[1][0])
                lines = [f"“{tokenizer.decode(batch['text'][row, true_k])}”"]
                for slot in np.flatnonzero(batch["mlm_mask"][row, true_k]):
                    best = int(probability[row, true_k, slot].argmax())
                    truth = tokenizer.vocabulary[batch["mlm_target"][row, true_k, slot]]
                    predicted = tokenizer.vocabulary[best]
                    mark = "right" if predicted == truth else f"wrong, {truth}"
                    input_id = int(batch["text"][row, true_k, batch["mlm_position"][row, true_k, slot]])
                    if input_id == batch["mlm_target"][row, true_k, slot]:
                        mark += "; not masked"
                    elif input_id != tokenizer.mask:
                        mark += f"; replaced at random by {tokenizer.vocabulary[input_id]}"
                    lines.append(f"   {predicted} {probability[row, true_k, slot, best]:.2f} ({mark})")
                lines.append(f"matches {score_BxK[row, true_k]:.2f}: its own caption")
                for k in texts_of[0][:1]:
                    lines.append(f"matches {score_BxK[row, k]:.2f}: “{tokenizer.decode(text_BxKxT[row, k])}”")
                yield _image(stream, plan, batch, row), lines
    finally:
        loaded.close()


def _image(stream: Stream, plan: BatchPlan, batch: dict[str, np.ndarray], row: int) -> np.ndarray:
    """The visual input of a row: the image, or the image with the boxes of its regions."""
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
