"""Pictures a second of one core: our batches, decoding and resizing alone, and a PyTorch loader with Pillow, in turn.

    python -m data_pipelines.prepare coco_captions --source_dir=/path/to/coco --data_dir=data
    python -m benchmarks.input_pipeline --config=experiments/configs/pretrain_r50.py --config.data.data_dir=data \
        --config.data.vocabulary=/path/to/bert-base-uncased/vocab.txt

Pictures are those of the config's first source. Ours is a batch of pre-training as a run makes it: records read, JPEG
decoded and resized onto its canvas, texts chosen, tokenised and masked. "alone" decodes and resizes the same pictures
by the same library, in memory, and does nothing else. The peer is a `torch.utils.data.DataLoader` in this process:
Pillow, the same resize rule, the same canvas, Hugging Face's fast tokeniser, no masking. Prints one JSON object.
"""

import io
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from absl import flags
from PIL import Image
from tokenizers import BertWordPieceTokenizer

from benchmarks.measuring import report, rounded
from benchmarks.turns import TURNS, in_turn, spread
from data_pipelines import images
from data_pipelines.batches.pretraining import PretrainingBatches
from data_pipelines.config import DataConfig
from data_pipelines.plan import BatchPlan
from data_pipelines.records import Records, open_records
from data_pipelines.text import Tokenizer, read_vocabulary
from experiments.common_flags import OUTPUT
from experiments.config import RunConfig
from experiments.config_flags import run_main

_PICTURES = flags.DEFINE_integer("pictures", 64, "Pictures a turn.", lower_bound=1)
ROWS = 8  # of a batch


def one_canvas(records: Records, data: DataConfig, count: int) -> tuple[int, np.ndarray]:
    """The canvas that most pictures of a split lie on, and the first `count` of them."""
    sizes = zip(records.index.heights.tolist(), records.index.widths.tolist(), strict=True)
    canvas_N = np.array(
        [
            images.choose_canvas(*images.resized_size(height, width, data.resize), data.all_canvases)
            for height, width in sizes
        ]
    )
    canvas = int(np.bincount(canvas_N).argmax())
    return canvas, np.flatnonzero(canvas_N == canvas)[:count]


class TorchPictures(torch.utils.data.Dataset):
    """The pictures and their texts, decoded by Pillow."""

    def __init__(self, encoded: list[bytes], texts: list[list[str]], data: DataConfig, canvas: int, vocabulary: dict):
        self.encoded, self.texts, self.data = encoded, texts, data
        self.height, self.width = data.all_canvases[canvas]
        self.tokenizer = BertWordPieceTokenizer(vocab=vocabulary, lowercase=data.lowercase)
        self.tokenizer.enable_truncation(data.max_text_length)
        self.tokenizer.enable_padding(length=data.max_text_length)

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        picture = Image.open(io.BytesIO(self.encoded[i])).convert("RGB")
        height, width = images.resized_size(picture.height, picture.width, self.data.resize)
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        canvas = torch.zeros(self.height, self.width, 3, dtype=torch.uint8)
        canvas[:height, :width] = torch.from_numpy(np.array(picture))
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(self.texts[i])]
        return canvas, torch.tensor(ids)


def measure(records: Records, data: DataConfig, tokenizer: Tokenizer, pictures: int, turns: int) -> dict[str, Any]:
    """Time the three in turn, each on one thread."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    canvas, chosen = one_canvas(records, data, pictures - pictures % ROWS or ROWS)
    chosen = np.resize(chosen, max(ROWS, len(chosen) - len(chosen) % ROWS))
    encoded = [records[int(i)].image for i in chosen]
    texts = [list(np.resize(records[int(i)].texts, data.texts_per_image)) for i in chosen]
    zeros = np.zeros(ROWS, np.int32)
    plans = [
        BatchPlan(step, canvas, zeros, rows.astype(np.int32), zeros, zeros)
        for step, rows in enumerate(chosen.reshape(-1, ROWS))
    ]
    make_batch = PretrainingBatches((records,), tokenizer, data, seed=0)
    loader = torch.utils.data.DataLoader(
        TorchPictures(encoded, texts, data, canvas, tokenizer.ids), batch_size=ROWS, num_workers=0
    )

    def alone() -> None:
        for image in encoded:
            pixels = images.decode(image)
            images.resize(pixels, images.resized_size(*pixels.shape[:2], data.resize))

    ways: dict[str, Callable[[], Any]] = {
        "ours": lambda: [make_batch(plan) for plan in plans],
        "alone": alone,
        "torch": lambda: list(loader),
    }
    seconds = in_turn(ways, turns, warm_up=1)
    rates = {name: [len(chosen) / second for second in values] for name, values in seconds.items()}
    return {
        "pictures": len(chosen),
        "canvas": list(data.all_canvases[canvas]),
        "texts_per_image": data.texts_per_image,
        "opencv": cv2.__version__,
        "torch": torch.__version__,
        "pictures_a_second_a_core": {name: spread(values) for name, values in rates.items()},
        **{f"ours_over_{peer}": ratio(rates["ours"], rates[peer]) for peer in ("alone", "torch")},
    }


def ratio(ours: list[float], peer: list[float]) -> dict[str, float]:
    """Turn by turn, and of the best turns."""
    return spread([a / b for a, b in zip(ours, peer, strict=True)]) | {"of_best": rounded(max(ours) / max(peer))}


def main(config: RunConfig) -> None:
    """Entry point behind the flags."""
    data = config.data
    tokenizer = Tokenizer(read_vocabulary(data.vocabulary), data.lowercase)
    source = data.train[0]
    records = open_records(data.data_dir, source.name, source.split.partition("+")[0])
    report({"data": repr(records)} | measure(records, data, tokenizer, _PICTURES.value, TURNS.value), OUTPUT.value)


if __name__ == "__main__":
    run_main(main)
