"""Build a set of images with texts from what a crawler found, as ImageBERT's LAIT was built.

    python -m data_pipelines.collect --source=crawl --output=collected --model=runs/quickstart

reads WebDataset tar files or Parquet files, drops what is no image of use or no caption, keeps the text that fits each
image best, and writes tar files that `python -m data_pipelines.prepare image_text` reads, with the funnel as
funnel.json and funnel.png. It runs on Apache Beam; what follows `--` are Beam's own options. See docs/collect.md.
"""

from pathlib import Path

from absl import app, flags, logging

from data_pipelines.beam.runner import check_arguments
from data_pipelines.cli import run_command
from data_pipelines.errors import DataError
from data_pipelines.web_collection.funnel import table
from data_pipelines.web_collection.run import chosen_by, collect
from data_pipelines.web_collection.settings import Settings
from data_pipelines.web_collection.texts import read_words

_DEFAULT = Settings()
_SOURCE = flags.DEFINE_string("source", None, "Folder with .tar or .parquet files, or one such file.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write; must not exist yet.")
_IMAGE_FOLDER = flags.DEFINE_string(
    "image_folder", None, "Where image_path in Parquet files starts; default: --source."
)
_WORDS = flags.DEFINE_string("words", None, "File of known words, one a line, or a vocab.txt; none: all are known.")
_RUNNER = flags.DEFINE_string("runner", "direct", "direct: this machine; or a runner of Beam, such as FlinkRunner.")

# Flags that are fields of Settings.
_FIELDS = [
    flags.DEFINE_list("language", list(_DEFAULT.language), "Languages of the pages that are kept; empty: all pages."),
    flags.DEFINE_enum(
        "unknown_language", _DEFAULT.unknown_language, ["keep", "drop"], "Pages that do not say their language."
    ),
    flags.DEFINE_integer("min_side", _DEFAULT.min_side, "Pixels that both sides of an image must have."),
    flags.DEFINE_integer("min_words", _DEFAULT.min_words, "Of a text."),
    flags.DEFINE_integer("max_words", _DEFAULT.max_words, "Of a text."),
    flags.DEFINE_float("min_letters", _DEFAULT.min_letters, "Share of a text's characters that must be letters."),
    flags.DEFINE_float("max_unknown_words", _DEFAULT.max_unknown_words, "Share of a text's words, with --words."),
    flags.DEFINE_integer("max_images_per_text", _DEFAULT.max_images_per_text, "A text of more images is boilerplate."),
    flags.DEFINE_integer("max_texts_per_image", _DEFAULT.max_texts_per_image, "Further ones are not looked at."),
    flags.DEFINE_string("model", _DEFAULT.model, "Trained model that scores the texts; none: the longest is taken."),
    flags.DEFINE_float("min_score", _DEFAULT.min_score, "Of the best text of an image, with --model."),
    flags.DEFINE_integer("max_distance", _DEFAULT.max_distance, "Bits between near duplicates; -1: they are kept."),
    flags.DEFINE_string("split", _DEFAULT.split, "Name of the split that is written."),
    flags.DEFINE_integer("images_per_shard", _DEFAULT.images_per_shard, "Images in each tar file that is written."),
]


def run(beam_options: list[str]) -> str:
    """Collect what the flags ask for and return the funnel as text; raises DataError."""
    for flag in (_SOURCE, _OUTPUT):
        if not flag.value:
            raise DataError(f"Give --{flag.name}: {flags.FLAGS[flag.name].help}")
    check_arguments(beam_options)
    if flags.FLAGS["min_score"].present and not flags.FLAGS["model"].value:
        raise DataError("--min_score needs a model that gives scores; give --model too, or leave it out.")
    fields = {flag.name: flag.value for flag in _FIELDS}
    fields["language"] = tuple(tag.lower() for tag in fields["language"] if tag)
    if _WORDS.value:
        fields["words"] = read_words(Path(_WORDS.value))
    settings = Settings(**fields)
    rows = collect(
        Path(_SOURCE.value),
        Path(_OUTPUT.value),
        settings,
        image_folder=None if _IMAGE_FOLDER.value is None else Path(_IMAGE_FOLDER.value),
        runner=_RUNNER.value,
        beam_options=beam_options,
    )
    return "\n".join(
        [
            table(rows),
            f"text: {chosen_by(settings)}",
            f"{rows[-1].images_left:,} of {rows[0].images:,} images with a text each are in {_OUTPUT.value}; next: "
            f"python -m data_pipelines.prepare image_text --source_dir={_OUTPUT.value} --data_dir=FOLDER",
        ]
    )


def main(argv: list[str]) -> None:
    """Entry point; see `run_command`."""
    run_command(run, argv, logging.ERROR)


if __name__ == "__main__":
    app.run(main)
