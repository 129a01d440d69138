"""Score a model on a split and write the submission file of its task.

    python -m experiments.evaluate --workdir=RUN --split=test --output=predict.json

The output is, by task: visual question answering, the server's JSON list of question_id and answer; NLVR2, the official
script's CSV; retrieval, an .npz with the scores of all pairs. Scores are printed where the split has labels. A
pre-trained model is scored as one of retrieval (zero-shot), or with `--measure=tasks` on its own tasks, as a .json of
metrics: masked tokens and image-text matching. With `--wordnet=FOLDER`, the dict/ of WordNet 3.0, the scores of
questions whose answers are sets, as DAQUAR's, include WUPS.
"""

import contextlib
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from absl import flags

from data_pipelines.storage.atomic_files import write_atomically
from data_pipelines.storage.detectors import same_detector
from data_pipelines.storage.paths import AnyPath, as_path
from data_pipelines.storage.records import open_records
from experiments.evaluation.options import EvaluationOptions
from experiments.resilience.distributed import are_many, is_first
from experiments.run.common_flags import CHECKPOINT, DATA_DIR, OUTPUT, SPLIT, WORKDIR, new_file, required
from experiments.run.config import RunConfig
from experiments.run.config_flags import run_main
from experiments.run.progress import say
from experiments.run.stages import stages_of
from experiments.tasks.registry import recipe_named
from pixelbert_jax.loading import LoadedModel, load
from pixelbert_jax.serialization import build
from pixelbert_jax.training.sharding import MeshConfig, make_mesh

_DATASET = flags.DEFINE_string("dataset", "", "Prepared data set; empty: the first of the run's data.eval.")
_SHUFFLE = flags.DEFINE_bool("shuffle_images", False, "Give each text another image: a control that must score worse.")
_WORDNET = flags.DEFINE_string("wordnet", "", "The dict/ folder of WordNet 3.0: also give WUPS, of sets of answers.")
_MEASURE = flags.DEFINE_enum(
    "measure", "retrieval", ["retrieval", "tasks"], "Of a pre-trained model: zero-shot retrieval, or its own tasks."
)
_IMAGES = flags.DEFINE_integer(
    "num_images", 0, "Retrieval and --measure=tasks: number of images, evenly spaced over the split. 0: all.", 0
)
_RERANK_TOP = flags.DEFINE_integer(
    "rerank_top",
    0,
    "Retrieval, inexact but faster: score exactly only this many of each image's texts and of each text's images, "
    "the best ones of a first pass with few pixels. 0: all pairs exactly.",
)
_RERANK_PIXELS = flags.DEFINE_integer("rerank_pixels", 16, "Pixels of each image in the first pass of --rerank_top.")


def run_config(loaded: LoadedModel, data_dir: str) -> RunConfig:
    """The configuration of the run that made the model, with its data found in `data_dir`."""
    config = build(loaded.description["config"], RunConfig)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, data_dir=data_dir or config.data.data_dir))


def evaluate(
    loaded: LoadedModel,
    output: AnyPath,
    options: EvaluationOptions,
    *,
    dataset: str = "",
    data_dir: str = "",
) -> dict[str, Any]:
    """Write predictions of `options.split` to `output` and return the scores.

    Raises:
      ConfigError: the output has another suffix than the task's, or its folder is missing; an option that this task
        does not have; regions of other sizes than the model's.
      DataError: no such data set or split, or its labels are of another task; regions of another detector than the
        model's; a folder without WordNet.
    """
    recipe = recipe_named(loaded.description["task"])
    recipe.check_evaluation(loaded, options)
    new_file(str(output), recipe.output_suffix_of(options))
    config = run_config(loaded, data_dir)
    sources = config.data.eval or stages_of(config)[0].train
    records = open_records(config.data.data_dir, dataset or sources[0].name, options.split)
    recipe.check_records(config, records, known=False, scored=True)
    if config.data.regions:
        same_detector([(loaded.path, loaded.description.get("detector")), (repr(records), records.index.detector)])
    return recipe.evaluate(loaded, config, records, output, options)


def main() -> None:
    """Entry point behind the flags."""
    required(WORKDIR, SPLIT, OUTPUT)
    output = as_path(OUTPUT.value)
    loaded = load(WORKDIR.value, checkpoint=CHECKPOINT.value, mesh=make_mesh(MeshConfig()))
    say(loaded.origin())
    with contextlib.ExitStack() as scratch:
        own = output
        if are_many():
            # Each process computes all scores in its own folder: parts that only one process finds on the disk would
            # make the processes run different programs.
            own = Path(scratch.enter_context(tempfile.TemporaryDirectory())) / output.name
            if is_first():
                new_file(OUTPUT.value, output.suffix.lower())
        scores = evaluate(
            loaded,
            own,
            EvaluationOptions(
                split=SPLIT.value,
                shuffle_images=_SHUFFLE.value,
                measure=_MEASURE.value,
                num_images=_IMAGES.value,
                wordnet=_WORDNET.value,
                rerank_top=_RERANK_TOP.value,
                rerank_pixels=_RERANK_PIXELS.value,
            ),
            dataset=_DATASET.value,
            data_dir=DATA_DIR.value,
        )
        if are_many() and is_first():
            write_atomically(output, own.read_bytes())
    for name, value in scores.items():
        say(f"{name:40} {value:.4f}" if isinstance(value, float) else f"{name:40} {value}")
    say(f"written to {OUTPUT.value}")


if __name__ == "__main__":
    run_main(main, takes_config=False, many_processes=True)
