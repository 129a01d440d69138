"""Prepare a data set for training.

    python -m data_pipelines.prepare NAME --source_dir=... --data_dir=...

reads the publisher's files in source_dir and writes ArrayRecord files and an index to data_dir. If the data set is
already finished, the program only prints its summary. With --beam_runner it runs on Apache Beam; the arguments after
`--` are Beam's own options. See docs/data.md.
"""

import itertools
import os

from absl import app, flags

from data_pipelines import datasets
from data_pipelines.cli import run_command
from data_pipelines.errors import DataError
from data_pipelines.images.resize import ResizeRule
from data_pipelines.preparation.run import prepare
from data_pipelines.preparation.summary import describe
from data_pipelines.progress import Progress
from data_pipelines.storage.records import read_summary

_SOURCE_DIR = flags.DEFINE_string(
    "source_dir", None, "Folder with the publisher's files, or hf://datasets/OWNER/NAME for Parquet files of the hub."
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder for prepared data sets.")
_MAX_BAD_SHARE = flags.DEFINE_float(
    "max_bad_share", 0.01, "Largest share of damaged or missing images; above it nothing is prepared."
)
_NUM_THREADS = flags.DEFINE_integer("num_threads", min(8, os.cpu_count() or 1), "Threads that read and decode images.")
_NUM_SHARDS = flags.DEFINE_integer("num_shards", None, "Files per split; none: a new file after every 512 MiB.")
_BEAM_RUNNER = flags.DEFINE_string(
    "beam_runner", None, "Prepare on Apache Beam: direct for this machine, or a runner of Beam, such as FlinkRunner."
)
_SHORTER = flags.DEFINE_integer("shorter_edge", 800, "Resize rule of the summary: shorter edge in pixels.")
_LONGER = flags.DEFINE_integer("longer_edge", 1333, "Resize rule of the summary: longest edge in pixels.")

# Flags of single data sets; the OPTIONS of a data set list the flags that it accepts.
_OPTIONS = {
    "year": flags.DEFINE_enum("year", "", ["", "2014", "2017"], "coco_captions: 2014 or 2017; default: the one found."),
    "karpathy_json": flags.DEFINE_string(
        "karpathy_json", "", "coco_captions, visual_genome: path of dataset_coco.json."
    ),
    "official_splits": flags.DEFINE_bool(
        "official_splits", False, "coco_captions: use the official splits even if Karpathy's file is found."
    ),
    "keep_coco_test": flags.DEFINE_bool("keep_coco_test", False, "visual_genome: keep COCO's val and test images."),
    "first_row": flags.DEFINE_enum(
        "first_row",
        "",
        ["", "0", "1"],
        "conceptual_captions, sbu: number of the first row, if images are named by row numbers; default: detected.",
    ),
    "max_identical": flags.DEFINE_integer(
        "max_identical",
        10,
        "conceptual_captions, sbu, image_text: number of images with the same bytes to keep, such as a placeholder "
        "that dead links return; 0 for all.",
    ),
    "sbu_validation": flags.DEFINE_integer(
        "sbu_validation", 1_000, "sbu: images of the validation split, taken from train; 0 for none."
    ),
    "visual_genome_qa": flags.DEFINE_bool(
        "visual_genome_qa", False, "vqa_v2: add the questions of Visual Genome as split visual_genome."
    ),
    "columns": flags.DEFINE_string(
        "columns",
        "",
        "image_text, vqa, image_pairs: columns of Parquet files, as image=COLUMN,texts=COLUMN; the others "
        "are found by their usual names.",
    ),
    "split_column": flags.DEFINE_string(
        "split_column", "", "image_text, vqa, image_pairs: column of Parquet files with the split of each row."
    ),
    "num_train": flags.DEFINE_integer("num_train", 15_000, "shapes: number of images."),
    "num_validation": flags.DEFINE_integer("num_validation", 1_000, "shapes: number of images."),
    "num_test": flags.DEFINE_integer("num_test", 1_000, "shapes: number of images."),
    "seed": flags.DEFINE_integer("seed", 0, "shapes: seed."),
    "image_size": flags.DEFINE_integer("image_size", 48, "shapes: side in pixels."),
    "wrong_captions": flags.DEFINE_float(
        "wrong_captions", 0.5, "noisy_shapes: share of the images that have the captions of another image."
    ),
    "regions": flags.DEFINE_string(
        "regions", "", "Path of a detector's regions (docs/data.md), stored with single images; shapes: drawn."
    ),
    "max_regions": flags.DEFINE_integer(
        "max_regions", 100, "With --regions: number of highest-scoring regions to keep per image."
    ),
    "num_regions": flags.DEFINE_integer("num_regions", 8, "shapes with --regions=drawn: regions per image."),
}


def run(arguments: list[str]) -> str:
    """Prepare the data set that the flags describe and return the summary; raises DataError."""
    names = list(itertools.takewhile(lambda argument: not argument.startswith("--"), arguments))
    if len(names) != 1:
        raise DataError(f"Give the name of one data set, not {len(names)}: {', '.join(datasets.names())}.")
    if _DATA_DIR.value is None:
        raise DataError("Give --data_dir, the folder for prepared data sets.")
    try:
        rule = ResizeRule(_SHORTER.value, _LONGER.value)
    except ValueError as error:
        raise DataError(str(error)) from error
    progress = Progress()
    try:
        folder = prepare(
            names[0],
            _DATA_DIR.value,
            _SOURCE_DIR.value,
            options={name: flag.value for name, flag in _OPTIONS.items() if flag.present},
            max_bad_share=_MAX_BAD_SHARE.value,
            num_threads=_NUM_THREADS.value,
            num_shards=_NUM_SHARDS.value,
            beam_runner=_BEAM_RUNNER.value,
            beam_options=arguments[1:],
            progress=progress,
        )
    finally:
        progress.close()
    return describe(folder, read_summary(folder), rule)


def main(argv: list[str]) -> None:
    """Entry point; see `run_command`."""
    run_command(run, argv)


if __name__ == "__main__":
    app.run(main)
