"""Every image against every text: scores of all pairs, and the recalls of image-text retrieval.

The scores are exact without re-ranking. With re-ranking, a first pass scores all pairs with a few pixels of each
image, and only the best pairs are scored exactly. Scores of each block of images are kept beside the output until all
are there, so that a stopped evaluation continues where it stopped.
"""

import hashlib
import io
import math
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from etils import epath

from data_pipelines.batches.shared import show_nothing
from data_pipelines.batches.visuals import visuals_of
from data_pipelines.order.evaluation_plan import EvaluationPlan, evenly_spaced
from data_pipelines.storage.atomic_files import write_atomically
from data_pipelines.storage.paths import AnyPath, is_local
from data_pipelines.storage.records import Records
from experiments.evaluation.metrics.retrieval import folded_recalls, recalls
from experiments.evaluation.options import EvaluationOptions
from experiments.evaluation.pair_scorer import PairScorer
from experiments.run.canvases import canvas_of
from experiments.run.progress import Progress, say
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.loading import LoadedModel

_COCO_FOLDS = 5  # COCO 1K is five folds of the 5,000 test images
_HEADER_BYTES = 4096  # at most, of a .npy file


def evaluate(
    loaded: LoadedModel,
    records: Records,
    output: AnyPath,
    options: EvaluationOptions,
    *,
    block_images: int = 8,
    block_texts: int = 64,
) -> dict[str, Any]:
    """Score all pairs of a split, write them to `output`, return recalls.

    The file holds `scores` (images x texts), `image_of_text` (index of each text's image), `image_ids` and `texts`.

    With re-ranking `exact` (images x texts) is written too: pairs that were scored with all pixels.

    Args:
      loaded: a model of the task retrieval, or of pretraining for zero-shot retrieval with its image-text matching
        (ITM) head.
      records: images with their texts.
      output: .npz file.
      options: `num_images` evenly spaced over the split, with their texts. `shuffle_images` gives each image's texts
        to the next image. `rerank_top` scores exactly only this many of each image's texts and of each text's images,
        the best of a first pass; the other pairs are ranked below them, in the order of that pass. The first pass
        reads `rerank_pixels` evenly spaced pixels of each image, or its highest-scoring regions in this number.
      block_images: images that go through the backbone together, and whose scores are kept together.
      block_texts: texts that are scored with them at once.

    Raises:
      ConfigError: rerank_top or rerank_pixels is out of range.
    """
    rerank_top, rerank_pixels = options.rerank_top, options.rerank_pixels
    if rerank_top < 0 or rerank_pixels < 1:
        raise ConfigError(
            f"--rerank_top={rerank_top} must be at least 1, or 0 to score all pairs exactly, and "
            f"--rerank_pixels={rerank_pixels} at least 1."
        )
    record_I = evenly_spaced(len(records), options.num_images)
    wanted = set(record_I.tolist())
    chosen = [record for i, record in enumerate(records.texts()) if i in wanted]
    texts = [text for record in chosen for text in record.texts]
    names = {
        "image_ids": np.array([record.image_id for record in chosen]),
        "texts": np.array(texts),
    }
    image_of_text = np.repeat(np.arange(len(record_I)), records.index.num_texts[record_I])
    if options.shuffle_images:
        image_of_text = (image_of_text + 1) % len(record_I)
    scorer = PairScorer(loaded, texts, block_texts)
    is_exact = not 0 < rerank_top < min(len(record_I), len(texts))  # a top of all images or texts has every pair
    pixels = 0 if is_exact else rerank_pixels

    folders: list[AnyPath] = []

    def scored(score: Callable[..., np.ndarray], *options: int) -> np.ndarray:
        name = _fingerprint(loaded, records, block_images, len(record_I), *options)[:16]
        folders.append(output.with_name(f".{output.name}.{name}.parts"))
        return _score_blocks(score, loaded, records, record_I, folders[-1], block_images)

    scores_IxT = scored(lambda _, batch: scorer.score(batch, pixels), pixels)
    arrays, found = {}, {"images": len(record_I), "texts": len(texts)}
    if not is_exact:
        chosen_IxT = best_pairs(scores_IxT, rerank_top)
        exact_IxT = scored(
            lambda rows, batch: scorer.match_chosen(*scorer.encode(batch), chosen_IxT[rows]), pixels, rerank_top
        )
        scores_IxT = ranked_below(scores_IxT, exact_IxT)
        arrays["exact"] = exact_IxT != -np.inf
        found["exactly_scored_pairs"] = count = int(arrays["exact"].sum())
        say(
            f"INEXACT: {count:,} of {scores_IxT.size:,} pairs ({count / scores_IxT.size:.2%}) were scored with all "
            f"pixels, the best {rerank_top} of each image and of each text by a first pass with {pixels} pixels."
        )
    elif rerank_top:
        say(f"--rerank_top={rerank_top} takes in every pair, so all are scored with all pixels: the result is exact.")
    write_atomically(output, _bytes(np.savez, scores=scores_IxT, image_of_text=image_of_text, **names, **arrays))
    for folder in folders:
        epath.Path(folder).rmtree()
    if scorer.cut:
        say(f"{scorer.cut} of {len(texts)} texts were cut to {scorer.longest} tokens")
    found |= recalls(scores_IxT, image_of_text)
    if len(record_I) == 5000:
        folded = folded_recalls(scores_IxT, image_of_text, _COCO_FOLDS)
        found |= {f"1k_{name}": value for name, value in folded.items()}
    return found


def best_pairs(scores_IxT: np.ndarray, top: int) -> np.ndarray:
    """Boolean IxT: the `top` best texts of each image and the `top` best images of each text."""
    chosen_IxT = np.zeros(scores_IxT.shape, bool)
    for scores, chosen in ((scores_IxT, chosen_IxT), (scores_IxT.T, chosen_IxT.T)):
        for row, marks in zip(scores, chosen, strict=True):
            marks[np.argpartition(-row, top - 1)[:top]] = True
    return chosen_IxT


def ranked_below(first_IxT: np.ndarray, exact_IxT: np.ndarray) -> np.ndarray:
    """The exact scores. Where one is -inf, the score of the first pass, moved below all exact ones, replaces it.

    The result is float64, so that the move makes no two scores equal.
    """
    is_exact_IxT = exact_IxT != -np.inf
    move = np.nanmin(exact_IxT[is_exact_IxT]).astype(np.float64) - np.nanmax(first_IxT).astype(np.float64) - 1
    return np.where(is_exact_IxT, exact_IxT, first_IxT.astype(np.float64) + move)


def _score_blocks(
    score: Callable[[np.ndarray, dict[str, np.ndarray]], np.ndarray],
    loaded: LoadedModel,
    records: Records,
    record_I: np.ndarray,
    folder: AnyPath,
    block_images: int,
) -> np.ndarray:
    """Scores IxT of the records `record_I`, block by block; blocks whose file is in `folder` are read from there.

    `score` gets the rows of IxT of a block and the visual fields of a batch of its images, and returns at least one row
    for each.
    """
    folder.mkdir(exist_ok=True)
    scores_IxT = np.zeros((len(record_I), records.index.num_texts[record_I].sum()), np.float32)
    blocks = list(_blocks(loaded, records, block_images, len(record_I)))
    progress, pairs = Progress(len(blocks), 0), 0
    for number, (canvas, images) in enumerate(blocks):
        part, rows = folder / f"{number}.npy", np.searchsorted(record_I, images)
        kept = read_part(part, scores_IxT[rows].shape)
        if kept is not None:
            scores_IxT[rows] = kept
        else:
            batch = _images(loaded, records, canvas, images, block_images)
            scores_IxT[rows] = score(rows, batch)[: len(rows)]
            write_atomically(part, _bytes(np.save, scores_IxT[rows]))
        pairs += int((scores_IxT[rows] != -np.inf).sum())
        progress.update(number + 1, f"{pairs:,} pairs")
    progress.close()
    return scores_IxT


def read_part(path: AnyPath, shape: tuple[int, ...]) -> np.ndarray | None:
    """Scores that an earlier run has kept, float32; None if they are incomplete and must be computed again."""
    try:
        # Not read into memory before its shape is known, or in a bucket its size.
        if is_local(path):
            scores = np.load(path, mmap_mode="r", allow_pickle=False)
        elif path.stat().length <= 4 * math.prod(shape) + _HEADER_BYTES:
            scores = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
        else:
            return None
    except (OSError, ValueError, TypeError, EOFError, SyntaxError, zipfile.BadZipFile):
        return None
    whole = isinstance(scores, np.ndarray) and scores.shape == shape and scores.dtype == np.float32
    return np.array(scores) if whole else None


def _blocks(loaded: LoadedModel, records: Records, block_images: int, limit: int) -> Iterator[tuple[int, np.ndarray]]:
    """Canvas and records of each batch of images."""
    for plan in EvaluationPlan([canvas_of(records, loaded.data)], rows=block_images, limit=limit):
        yield plan.canvas, plan.record_B[plan.record_B >= 0]


def _images(loaded: LoadedModel, records: Records, canvas: int, images: np.ndarray, rows: int) -> dict[str, np.ndarray]:
    """The visual fields of a batch."""
    visuals = visuals_of([records], loaded.data)
    batch = visuals.blank(rows, canvas)
    for row, image in enumerate(images):
        visuals.write(batch, row, records[int(image)])
    for row in range(len(images), rows):
        show_nothing(batch, row)
    return batch


def _fingerprint(loaded: LoadedModel, records: Records, block_images: int, *options: int) -> str:
    """Digest of the model, the data, its blocks and the pass over them, so that only matching scores are reused."""
    model = (loaded.path, loaded.description.get("digest", loaded.description.get("sha256")), loaded.task.model.dtype)
    return hashlib.blake2b(repr((model, records.index.fingerprint, block_images, options)).encode()).hexdigest()


def _bytes(save: Any, *arrays: np.ndarray, **named: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    save(buffer, *arrays, **named)
    return buffer.getvalue()
