"""One pre-training step at a config's full size: time, pairs a second, memory, share of the measured matrix rate.

    python -m benchmarks.pretraining_step --config=experiments/configs/pretrain_r50.py --images=1 --steps=3

Images are random bytes on the largest canvas of the config, so nothing has to be downloaded. Prints one JSON object
and writes it to --output=FILE. Operations are those of the step without what the backward pass recomputes.
"""

import resource
import statistics
import sys
import time

import jax
import numpy as np
from absl import app, flags

from benchmarks.harness.measuring import (
    IMAGES,
    countable,
    largest_image,
    machine,
    operations,
    report,
    rounded,
    with_vocabulary,
)
from benchmarks.harness.rates import matrix_rate
from benchmarks.harness.stepping import trainer_of
from experiments.run.common_flags import OUTPUT
from experiments.run.config_flags import load_config, split_arguments
from pixelbert_jax.training.optimizer import parameter_count
from pixelbert_jax.training.sharding import batch_sharding, make_mesh

_STEPS = flags.DEFINE_integer("steps", 3, "Timed steps.")


def random_batch(config, images: int, vocabulary: int) -> dict[str, np.ndarray]:
    """A batch of the config's shapes; each image fills what the resize rule lets it fill of the canvas.

    Half of the pairs match, and each text uses half of its slots for masked tokens, about as captions do.
    """
    rng = np.random.default_rng(0)
    canvas, size = largest_image(config.data)
    texts, length, slots = (
        config.data.texts_per_image,
        config.data.max_text_length,
        config.data.mask_slots,
    )
    pairs = (images, texts)
    return {
        "images": rng.integers(0, 256, (images, *canvas, 3)).astype(np.uint8),
        "image_size": np.tile(np.array(size, np.int32), (images, 1)),
        "text": rng.integers(5, vocabulary, (*pairs, length)).astype(np.int32),
        "text_mask": np.ones((*pairs, length), bool),
        "mlm_position": rng.integers(1, length - 1, (*pairs, slots)).astype(np.int32),
        "mlm_target": rng.integers(5, vocabulary, (*pairs, slots)).astype(np.int32),
        "mlm_mask": np.tile(np.arange(slots) < -(-slots // 2), (*pairs, 1)),
        "itm_label": (np.arange(images * texts).reshape(pairs) % 2).astype(np.int32),
        "pair_mask": np.ones(pairs, bool),
    }


def measure(config, images: int, steps: int) -> dict:
    """Compile and run the config's real step."""
    model, mesh = with_vocabulary(config.model), make_mesh(config.mesh)
    made_of = config.task, config.optimizer, mesh, config.mesh
    trainer = trainer_of(model, *made_of, config.train.accumulation)
    counted = trainer_of(countable(model), *made_of)
    batch = jax.device_put(random_batch(config, images, model.text.vocabulary_size), batch_sharding(mesh))
    flops = operations(counted.train_step, counted.abstract_state, batch)
    rate = matrix_rate(config.model.dtype)
    begun = time.perf_counter()
    compiled = trainer.train_step.lower(trainer.abstract_state, batch).compile()
    compile_seconds = time.perf_counter() - begun
    planned = compiled.memory_analysis()
    state = trainer.init()
    times, losses = [], []
    for _ in range(steps + 1):
        begun = time.perf_counter()
        state, metrics = compiled(state, batch)
        losses.append(float(metrics["loss"]))
        times.append(time.perf_counter() - begun)
    seconds = statistics.median(times[1:])
    stats = jax.devices()[0].memory_stats() or {}
    pairs = images * config.data.texts_per_image
    return {
        **machine(mesh),
        "parameters": parameter_count(state.params),
        "images": images,
        "pairs": pairs,
        "canvas": list(batch["images"].shape[1:3]),
        "dtype": config.model.dtype,
        "compile_seconds": round(compile_seconds, 1),
        "first_step_seconds": round(times[0], 3),
        "step_seconds": round(seconds, 4),
        "step_seconds_all": [round(t, 4) for t in times[1:]],
        "pairs_per_second": round(pairs / seconds, 2),
        "teraflop_a_step_counted_by_the_compiler": rounded(flops / 1e12),
        "matrix_rate_tflops": round(rate / 1e12, 3),
        "share_of_matrix_rate": round(flops / seconds / rate / mesh.devices.size, 3),
        "planned_temporary_gib": round(getattr(planned, "temp_size_in_bytes", 0) / 2**30, 2),
        "peak_device_gib": round(stats.get("peak_bytes_in_use", 0) / 2**30, 2),
        "peak_process_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "losses": losses,
    }


def main(_: list[str], file: str, overrides: dict[str, str]) -> None:
    result = {"config": file} | measure(load_config(file, overrides), IMAGES.value, _STEPS.value)
    report(result, OUTPUT.value)


if __name__ == "__main__":
    rest, config_file, config_overrides = split_arguments(sys.argv)
    app.run(lambda arguments: main(arguments, config_file, config_overrides), argv=rest)
