"""One part of the GPU benchmark, in a process of its own, so that it has the card's memory to itself.

    python -m benchmarks.gpu_parts --part=r50_torch --lines=FILE.jsonl --seconds=100

`benchmarks.gpu` starts it. Each finding is a line of JSON that is written at once, so a part that is cut keeps what it
has. Parts: `rates`, `lowerings`, and MODEL_ours_REMAT, MODEL_torch or MODEL_torch_eager, whose findings are trials of a
pre-training step.
"""

import dataclasses
import gc
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from benchmarks.measuring import countable, largest_picture, machine, matrix_rate, operations, rounded, with_vocabulary
from benchmarks.pretraining_step import random_batch
from benchmarks.turns import in_turn
from data_pipelines.images import ResizeRule
from experiments.config import RunConfig
from experiments.config_flags import load_config, run_main
from pixelbert_jax import conv
from pixelbert_jax.config import PixelBertConfig
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.tasks.pretraining import PretrainingTask
from pixelbert_jax.training.optimizer import make_optimizer, make_schedule
from pixelbert_jax.training.sharding import MeshConfig, batch_sharding, make_mesh
from pixelbert_jax.training.step import Trainer, make_trainer

_PART = flags.DEFINE_string("part", None, "What is measured.")
_LINES = flags.DEFINE_string("lines", None, "File to which findings are appended.")
_SECONDS = flags.DEFINE_float("seconds", 100, "No trial is begun that is expected to end later.")
FIRST_IMAGES = flags.DEFINE_integer("first_images", 16, "Pictures of the first trial.", lower_bound=1)
MOST_IMAGES = flags.DEFINE_integer("most_images", 4096, "Pictures of the largest trial.", lower_bound=1)
STEPS = flags.DEFINE_integer("timed_steps", 10, "Timed steps a trial.", lower_bound=1)
MEMORY_GIB = flags.DEFINE_float("memory_gib", 78, "Memory that a part may take: what an 80 GB card leaves.")
FULL_AT = flags.DEFINE_integer("full_at", 0, "Pictures from which memory counts as full, to try that; 0: when it is.")
TINY = flags.DEFINE_bool("tiny", False, "Tiny models and pictures on whatever device there is, to try the program.")
_COUNT = flags.DEFINE_bool("count_operations", True, "Have those of our step counted.")

CONFIGS = {name: f"experiments/configs/pretrain_{name}.py" for name in ("r50", "x152")}
REMATS = {"none": (False, "none"), "dots": (True, "dots"), "full": (True, "full")}  # of the backbone, of the encoder
CANVAS, CHANNELS = (832, 1344), (128, 256, 512, 1024)  # of single convolutions: those of the 3x3, a stage
_OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "out of memory", "failed to allocate")
MEMORY_IS_FULL = "memory is full"  # why trials ended
_ROOM = 0.97  # share of the memory that a guess fills

Attempt = Callable[[int], dict[str, Any]]


# Trials of growing size.


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of JAX or PyTorch says that the memory is full."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or any(words.lower() in said for words in _OUT_OF_MEMORY)


def next_size(fitted: Sequence[tuple[int, float | None]], failed: Sequence[int], first: int, limit: float) -> int:
    """Pictures of the next trial, or 0 where no larger one is expected to fit.

    Args:
      fitted: pictures and peak of memory (GiB, None: not known) of the trials that went well, in growing order.
      failed: pictures of those that did not fit.
      first: of the first trial.
      limit: GiB that there are.
    """
    least_failed = min(failed, default=math.inf)
    if not fitted:
        return first if not failed else least_failed // 2
    last, peak = fitted[-1]
    if len(fitted) == 1 or peak is None:
        guess = 2 * last
    else:
        before, peak_before = fitted[-2]
        a_picture = max((peak - peak_before) / (last - before), 1e-6)
        guess = min(int(last + (_ROOM * limit - peak) / a_picture), 8 * last)
    if guess >= least_failed:
        guess = (last + least_failed) // 2
    return int(guess) if guess > last + last // 16 else 0


def trials(
    attempt: Attempt, *, first: int, most: int, limit: float, until: float, full_at: int = 0
) -> Iterator[dict[str, Any]]:
    """Larger and larger trials until the memory is full, the guess of the largest included; then why it ended.

    Args:
      attempt: tries a step with a number of pictures.
      first: pictures of the first trial.
      most: pictures that are not exceeded.
      limit: GiB of memory.
      until: `time.monotonic()` after which no trial should end.
      full_at: pictures from which memory counts as full; 0: never.
    """
    fitted: list[tuple[int, float | None]] = []
    failed: list[int] = []
    longest = 0.0
    while images := min(next_size(fitted, failed, first, limit), most):
        begun = time.monotonic()
        if begun + 1.2 * longest > until:
            yield {"ended": f"no time for a trial of {images} pictures"}
            return
        found, error = _tried(attempt, images, full_at)
        if error and not is_out_of_memory(error):
            yield {"images": images, "error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
            return
        del error  # it holds the frames, and with them the arrays
        gc.collect()
        longest = max(longest, time.monotonic() - begun)
        if found is None:
            failed.append(images)
        else:
            fitted.append((images, found.get("peak_gib")))
        yield {"images": images, "trial_seconds": round(time.monotonic() - begun, 1)} | (
            found or {"out_of_memory": True}
        )
        if images == most and found:
            yield {"ended": "the most pictures that were asked for"}
            return
    yield {"ended": MEMORY_IS_FULL}


def _tried(attempt: Attempt, images: int, full_at: int) -> tuple[dict[str, Any] | None, Exception | None]:
    try:
        if full_at and images >= full_at:
            raise MemoryError
        return attempt(images), None
    except Exception as error:
        return None, error


def timed(step: Callable[[], Any], steps: int, pairs: int) -> dict[str, Any]:
    """Pairs a second of a step that returns when it is done; the first two, which compile, do not count."""
    begun = time.perf_counter()
    step()
    first = time.perf_counter() - begun
    seconds = in_turn({"step": step}, steps, warm_up=1)["step"]
    median = statistics.median(seconds)
    return {
        "pairs": pairs,
        "first_step_seconds": rounded(first),
        "step_seconds": rounded(median),
        "pairs_a_second": rounded(pairs / median),
        "fastest_step_seconds": rounded(min(seconds)),
    }


# Our step.


def with_remat(config: RunConfig, remat: str) -> RunConfig:
    """The config with nothing frozen, BERT's vocabulary, and one of REMATS."""
    of_backbone, of_encoder = REMATS[remat]
    backbone = dataclasses.replace(config.model.backbone, frozen_parts=0, remat=of_backbone)
    encoder = dataclasses.replace(config.model.encoder, remat=of_encoder)
    return dataclasses.replace(
        config, model=with_vocabulary(dataclasses.replace(config.model, backbone=backbone, encoder=encoder))
    )


def trainer_of(config: RunConfig, model: PixelBertConfig) -> Trainer:
    """The trainer of the config's task and optimizer on one device."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    schedule = make_schedule(config.optimizer.schedule, 1000, 100)
    optimizer = make_optimizer(config.optimizer, model.backbone, schedule)
    return make_trainer(PretrainingTask(model, config.task), optimizer, schedule, mesh, MeshConfig(), seed=0)


def our_attempt(config: RunConfig, steps: int) -> Attempt:
    """Tries our step; the operations of one are counted without what is recomputed."""

    def attempt(images: int) -> dict[str, Any]:
        trainer = trainer_of(config, config.model)
        batch = random_batch(config, images, config.model.text.vocabulary_size)
        arrays, state = jax.device_put(batch, batch_sharding(trainer.mesh)), trainer.init()

        def step() -> float:
            nonlocal state
            state, metrics = trainer.train_step(state, arrays)
            return float(metrics["loss"])

        found = timed(step, steps, images * config.data.texts_per_image)
        peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
        return found | {"peak_gib": None if peak is None else rounded(peak / 2**30)}

    return attempt


def operations_a_pair(config: RunConfig, images: int) -> float:
    """Floating-point operations of our step, a pair, as the compiler counts them."""
    counted = trainer_of(config, countable(config.model))
    batch = random_batch(config, images, config.model.text.vocabulary_size)
    found = operations(counted.train_step, counted.abstract_state, batch)
    return found / (images * config.data.texts_per_image)


# The peer's step.


def peer_attempt(config: RunConfig, steps: int, memory_gib: float, *, compiled: bool) -> Attempt:
    """Tries the peer's step: channels-last, bfloat16 by autocast, its own attention; compiled if asked, on a card.

    It gets the same pictures, padded to a multiple of 32 and not to our canvas.

    Raises:
      ConfigError: PyTorch, or a card that it sees, is missing.
    """
    try:
        import torch

        from benchmarks.torch_peer import TorchPixelBert, make_step, torch_batch
    except ImportError as error:
        raise ConfigError(f"The peer needs {error.name}; pip install torch.") from None
    cuda = torch.cuda.is_available()
    if not cuda and not TINY.value:
        raise ConfigError("PyTorch sees no card; install one with CUDA, or give --tiny to try the program.")
    device = "cuda" if cuda else "cpu"
    if cuda:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, memory_gib * 2**30 / total))
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")

    def attempt(images: int) -> dict[str, Any]:
        gc.collect()
        if cuda:
            torch._dynamo.reset()  # programs of the size before
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        batch = random_batch(config, images, config.model.text.vocabulary_size)
        height, width = (math.ceil(side / 32) * 32 for side in batch["image_size"][0].tolist())
        batch["images"] = batch["images"][:, :height, :width]
        peer = TorchPixelBert(config.model, config.task.sampled_pixels).to(device)
        step = make_step(peer, config.optimizer, compiled=compiled and cuda, bfloat16=True)
        arrays = torch_batch(batch, device)
        found = timed(lambda: step(arrays), steps, images * config.data.texts_per_image)
        return found | {"peak_gib": rounded(torch.cuda.max_memory_reserved() / 2**30) if cuda else None}

    return attempt


# The card, and single convolutions.


def copy_rate() -> float:
    """Bytes a second that are read and written where an array is copied with one changed."""
    elements = 2**30 if jax.default_backend() != "cpu" else 2**22
    x = jnp.zeros(elements, jnp.float32)
    add = jax.jit(lambda x: x + 1)
    jax.block_until_ready(add(x))
    seconds = in_turn({"copy": lambda: jax.block_until_ready(add(x))}, 5)["copy"]
    return 2 * x.nbytes / statistics.median(seconds)


def rates() -> Iterator[dict[str, Any]]:
    """Machine, and the rates of its first device."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    yield machine(mesh)
    yield {"matrix_rate_tflops": rounded(matrix_rate("bfloat16") / 1e12)}
    yield {"copy_rate_gb_a_second": rounded(copy_rate() / 1e9)}


def forward_and_gradients(convolution: Callable, x: jax.Array, kernel: jax.Array, dy: jax.Array) -> Callable[[], Any]:
    """Four runs of a convolution with the gradients of both of its inputs, compiled."""

    @jax.jit
    def both(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple:
        y, pull = jax.vjp(convolution, x, kernel)
        return y, pull(dy)

    def run() -> None:
        found = None
        for _ in range(4):
            found = both(x, kernel, dy)
        jax.block_until_ready(found)

    return run


def lowerings(canvas: tuple[int, int], images: int, until: float, scale: int = 1) -> Iterator[dict[str, Any]]:
    """Milliseconds of ways to lower ResNeXt-152's grouped and ResNet's 1x1 convolutions, forward and gradients.

    Args:
      canvas: of the pictures.
      images: pictures.
      until: `time.monotonic()` after which nothing is begun.
      scale: channels are divided by it, to try it.
    """
    maps = [tuple(side // stride for side in canvas) for stride in (4, 8, 16, 32)]
    grouped = {"native": lambda x, k: conv._native(x, k, 1, 32)} | {
        f"merged_to_{n}": lambda x, k, n=n: conv._merged_groups(x, k, 1, 32, n) for n in (32, 64, 128)
    }
    single = {
        "convolution": lambda x, k: conv._native(x, k, 1, 1),
        "product": lambda x, k: conv._product(x, k[0, 0]),
    }
    stages = list(zip(CHANNELS, maps, strict=False))
    cases = [("3x3, 32 groups", 3, c, c, 32, size, grouped) for c, size in stages]
    cases += [("1x1", 1, *ends, 1, size, single) for c, size in stages for ends in ((c // 2, 2 * c), (2 * c, c // 2))]
    for what, size, inputs, outputs, groups, (height, width), ways in cases:
        if time.monotonic() > until:
            yield {"ended": "no time for more"}
            return
        inputs, outputs = max(inputs // scale, groups), max(outputs // scale, groups)
        x = jax.random.normal(jax.random.key(0), (images, height, width, inputs), jnp.bfloat16)
        kernel = jax.random.normal(jax.random.key(1), (size, size, inputs // groups, outputs), jnp.bfloat16)
        dy = jnp.ones((images, height, width, outputs), jnp.bfloat16)
        runs = {name: forward_and_gradients(way, x, kernel, dy) for name, way in ways.items()}
        seconds = in_turn(runs, 5, warm_up=1)
        yield {
            "convolution": what,
            "channels": [inputs, outputs],
            "map": [height, width],
            "images": images,
            "milliseconds": {name: rounded(statistics.median(values) * 250) for name, values in seconds.items()},
        }


# The program.


def findings(part: str, config: RunConfig | None, until: float) -> Iterator[dict[str, Any]]:
    """What a part finds, one by one.

    Args:
      part: its name.
      config: of the model that the name begins with.
      until: `time.monotonic()` after which it should end.

    Raises:
      ConfigError: something that it needs is missing.
    """
    if jax.default_backend() == "cpu" and not TINY.value and "torch" not in part:
        raise ConfigError("JAX sees no card; pip install 'jax[cuda12]', or give --tiny to try the program.")
    if part == "rates":
        yield from rates()
        return
    if part == "lowerings":
        yield from lowerings(
            (64, 64) if TINY.value else CANVAS, FIRST_IMAGES.value, until, scale=16 if TINY.value else 1
        )
        return
    _, side, *remat = part.split("_")
    config = with_remat(tiny(config) if TINY.value else config, remat[0] if side == "ours" else "none")
    canvas, size = largest_picture(config.data)
    yield {"canvas": list(canvas), "picture": list(size), "texts_per_image": config.data.texts_per_image}
    if side == "torch":
        attempt = peer_attempt(config, STEPS.value, MEMORY_GIB.value, compiled="eager" not in remat)
    else:
        attempt = our_attempt(config, STEPS.value)
        if _COUNT.value:
            yield {"gigaflop_a_pair": rounded(operations_a_pair(config, FIRST_IMAGES.value) / 1e9)}
    limits = {"limit": MEMORY_GIB.value, "until": until, "full_at": FULL_AT.value}
    yield from trials(attempt, first=FIRST_IMAGES.value, most=MOST_IMAGES.value, **limits)


def tiny(config: RunConfig) -> RunConfig:
    """The config with two blocks, one layer and pictures of 64x64."""
    groups = config.model.backbone.groups
    backbone = dataclasses.replace(
        config.model.backbone,
        depths=(1, 1),
        widths=(32, 48),
        inner_widths=(groups, 2 * groups) if groups > 1 else (8, 12),
        strides=(1, 2),
        stem_width=16,
    )
    encoder = dataclasses.replace(config.model.encoder, layers=1, width=32, heads=2, mlp_width=64)
    text = dataclasses.replace(config.model.text, vocabulary_size=100)
    data = dataclasses.replace(config.data, resize=ResizeRule(64, 64), canvases=((64, 64),), texts_per_image=2)
    model = dataclasses.replace(config.model, backbone=backbone, encoder=encoder, text=text)
    return dataclasses.replace(config, model=model, data=data)


def is_part(name: str) -> bool:
    """Whether there is such a part."""
    model, _, rest = name.partition("_")
    sides = {"torch", "torch_eager", *(f"ours_{remat}" for remat in REMATS)}
    return name in ("rates", "lowerings") or (model in CONFIGS and rest in sides)


def main() -> None:
    """Entry point behind the flags."""
    until = time.monotonic() + _SECONDS.value
    model = _PART.value.partition("_")[0]
    config = load_config(CONFIGS[model], {}) if model in CONFIGS else None
    with Path(_LINES.value).open("a") as file:
        try:
            for found in findings(_PART.value, config, until):
                file.write(json.dumps(found) + "\n")
                file.flush()
        except ConfigError as error:
            file.write(json.dumps({"missing": str(error)}) + "\n")


if __name__ == "__main__":
    run_main(main, takes_config=False)
