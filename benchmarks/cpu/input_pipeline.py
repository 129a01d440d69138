"""Images a processor second: our batches, decoding and resizing alone, and a PyTorch loader with Pillow, in turn.

    python -m data_pipelines.prepare coco_captions --source_dir=/path/to/coco --data_dir=data
    python -m benchmarks.cpu.input_pipeline --config=experiments/configs/pretrain_r50.py --config.data.data_dir=data \
        --config.data.vocabulary=/path/to/bert-base-uncased/vocab.txt

Images are those of the config's first source. Ours is a batch of pre-training as a run makes it: records read, JPEG
decoded and resized onto its canvas, texts chosen, tokenised and masked; each batch is dropped before the next,
which takes its memory. Against it stand, each image dropped at once, so that all stays in the processor's cache:

    alone   our two functions decode and resize the same images from memory
    bare    the library alone does, without a look at the header
    placed  bare, but into new batches, which no pipeline can do without
    torch   a `torch.utils.data.DataLoader` in this process: Pillow, the same resize rule and canvas, Hugging Face's
            fast tokeniser, no masking

Prints one JSON object; `ours_parts` are milliseconds of the processor an image, measured apart.
"""

import contextlib
import io
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import cv2
import numpy as np
import torch
from absl import flags
from array_record.python.array_record_data_source import ArrayRecordDataSource
from PIL import Image
from tokenizers import BertWordPieceTokenizer

from benchmarks.harness.measuring import host, report, rounded
from benchmarks.harness.turns import TURNS, in_turn, spread
from data_pipelines.batches import pretraining, shared
from data_pipelines.batches.pretraining import PretrainingBatches
from data_pipelines.config import DataConfig
from data_pipelines.images import resize
from data_pipelines.order.plan import BatchPlan
from data_pipelines.storage import records
from data_pipelines.storage.records import Records, find_folder, open_records
from data_pipelines.text.tokenizer import Tokenizer, read_vocabulary
from experiments.run.common_flags import OUTPUT
from experiments.run.config import RunConfig
from experiments.run.config_flags import run_main

_IMAGES = flags.DEFINE_integer("images_per_turn", 64, "Images of a turn.", lower_bound=1)
ROWS = 8  # of a batch
PARTS = (  # what is called, and the name of its part
    (ArrayRecordDataSource, "__getitem__", "read a record"),
    (records, "parse", "parse it"),
    (resize, "open_image", "look at the header"),
    (cv2, "imdecode", "decode"),
    (cv2, "resize", "resize"),
    (shared, "show", "clear the margins"),
    (shared, "blank_images", "memory of the canvases"),
    (shared, "visited_texts", "choose texts"),
    (PretrainingBatches, "_other_text", "choose texts"),
    (PretrainingBatches, "_mismatched", "choose texts"),
    (Tokenizer, "encode", "tokenise"),
    (pretraining, "mask_tokens", "mask words"),
    (shared, "write_ids", "write texts"),
    (PretrainingBatches, "__call__", "rest"),
)


def one_canvas(split: Records, data: DataConfig, count: int) -> tuple[int, np.ndarray]:
    """The canvas that most images of a split lie on, and the first `count` of them."""
    sizes = zip(split.index.heights.tolist(), split.index.widths.tolist(), strict=True)
    canvas_N = np.array(
        [
            resize.choose_canvas(*resize.resized_size(height, width, data.resize), data.all_canvases)
            for height, width in sizes
        ]
    )
    canvas = int(np.bincount(canvas_N).argmax())
    return canvas, np.flatnonzero(canvas_N == canvas)[:count]


class TorchPictures(torch.utils.data.Dataset):
    """The images and their texts, decoded by Pillow."""

    def __init__(self, encoded: list[bytes], texts: list[list[str]], data: DataConfig, canvas: int, vocabulary: dict):
        self.encoded, self.texts, self.data = encoded, texts, data
        self.height, self.width = data.all_canvases[canvas]
        self.tokenizer = BertWordPieceTokenizer(vocab=vocabulary, lowercase=data.lowercase)
        self.tokenizer.enable_truncation(data.max_text_length)
        self.tokenizer.enable_padding(length=data.max_text_length)

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = Image.open(io.BytesIO(self.encoded[i])).convert("RGB")
        height, width = resize.resized_size(image.height, image.width, self.data.resize)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        canvas = torch.zeros(self.height, self.width, 3, dtype=torch.uint8)
        canvas[:height, :width] = torch.from_numpy(np.array(image))
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(self.texts[i])]
        return canvas, torch.tensor(ids)


def measure(split: Records, data: DataConfig, tokenizer: Tokenizer, images: int, turns: int) -> dict[str, Any]:
    """Time the five ways in turn, each on one thread."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    canvas, chosen = one_canvas(split, data, images - images % ROWS or ROWS)
    chosen = np.resize(chosen, max(ROWS, len(chosen) - len(chosen) % ROWS))
    encoded = [split[int(i)].image for i in chosen]
    texts = [list(np.resize(split[int(i)].texts, data.texts_per_image)) for i in chosen]
    zeros = np.zeros(ROWS, np.int32)
    plans = [
        BatchPlan(step, canvas, zeros, rows.astype(np.int32), zeros, zeros)
        for step, rows in enumerate(chosen.reshape(-1, ROWS))
    ]
    make_batch = PretrainingBatches((split,), tokenizer, data, seed=0)
    loader = torch.utils.data.DataLoader(
        TorchPictures(encoded, texts, data, canvas, tokenizer.ids), batch_size=ROWS, num_workers=0
    )

    sizes = [resize.resized_size(split[int(i)].height, split[int(i)].width, data.resize) for i in chosen]
    rows = np.arange(len(chosen)).reshape(-1, ROWS)

    def ours() -> None:
        for plan in plans:
            make_batch(plan)

    def alone() -> None:
        for image in encoded:
            pixels = resize.decode(image)
            resize.resize(pixels, resize.resized_size(*pixels.shape[:2], data.resize))

    def bare() -> None:
        for image, size in zip(encoded, sizes, strict=True):
            bare_image(image, size)

    def placed() -> None:
        for numbers in rows:
            canvases = np.zeros((ROWS, *data.all_canvases[canvas], 3), np.uint8)
            for place, i in enumerate(numbers):
                bare_image(encoded[i], sizes[i], canvases[place, : sizes[i][0], : sizes[i][1]])

    def peer() -> None:
        for _ in loader:
            pass

    ways: dict[str, Callable[[], Any]] = {"ours": ours, "alone": alone, "bare": bare, "placed": placed, "torch": peer}
    seconds = in_turn(ways, turns, warm_up=2, clock=time.process_time)
    rates = {name: [len(chosen) / second for second in values] for name, values in seconds.items()}
    with counted_parts() as parts:
        for _ in range(turns):
            ours()
    return {
        **host(),
        "images": len(chosen),
        "canvas": list(data.all_canvases[canvas]),
        "texts_per_image": data.texts_per_image,
        "opencv": cv2.__version__,
        "rows": ROWS,
        "images_per_second_per_core": {name: spread(values) for name, values in rates.items()},
        **{f"ours_over_{peer}": ratio(rates["ours"], rates[peer]) for peer in ("alone", "bare", "placed", "torch")},
        "ours_parts": {
            name: rounded(1e3 * spent / turns / len(chosen))
            for name, spent in sorted(parts.items(), key=lambda x: -x[1])
        },
    }


def bare_image(encoded: bytes, size: resize.Canvas, out: np.ndarray | None = None) -> np.ndarray:
    """What `resize.decode` and `resize.resize` ask of OpenCV."""
    how = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), how)
    smaller = size[0] * size[1] < pixels.shape[0] * pixels.shape[1]
    return cv2.resize(pixels, size[::-1], dst=out, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


@contextlib.contextmanager
def counted_parts() -> Iterator[Counter[str]]:
    """A block in which processor seconds of the parts of making batches are counted, each without those within it."""
    seconds: Counter[str] = Counter()
    within = [0.0]

    def counted(on: str, function: Callable) -> Callable:
        def call(*arguments: Any, **more: Any) -> Any:
            begun, before, within[0] = time.process_time(), within[0], 0.0
            try:
                return function(*arguments, **more)
            finally:
                spent = time.process_time() - begun
                seconds[on] += spent - within[0]
                within[0] = before + spent

        return call

    with contextlib.ExitStack() as patches:
        for owner, name, on in PARTS:
            patches.enter_context(mock.patch.object(owner, name, counted(on, getattr(owner, name))))
        yield seconds


def ratio(ours: list[float], peer: list[float]) -> dict[str, float]:
    """Turn by turn, and of the best turns."""
    return spread([a / b for a, b in zip(ours, peer, strict=True)]) | {"of_best": rounded(max(ours) / max(peer))}


def described(data_dir: str, name: str, split: Records) -> dict[str, Any]:
    """Name, version, number of images and fingerprint of a prepared split; not where it lies."""
    version = find_folder(data_dir, name).name
    return {"name": name, "version": version, "images": len(split), "fingerprint": split.index.fingerprint[:8]}


def main(config: RunConfig) -> None:
    """Entry point behind the flags."""
    data = config.data
    tokenizer = Tokenizer(read_vocabulary(data.vocabulary), data.lowercase)
    source = data.train[0]
    split = open_records(data.data_dir, source.name, source.split.partition("+")[0])
    found = measure(split, data, tokenizer, _IMAGES.value, TURNS.value)
    report({"data": described(data.data_dir, source.name, split)} | found, OUTPUT.value)


if __name__ == "__main__":
    run_main(main)
