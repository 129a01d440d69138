"""Build a data set of images with texts from crawled pages, as ImageBERT's LAIT was built.

    python -m data_pipelines.collect --source=crawl --output=collected --model=runs/quickstart

reads WebDataset tar files or Parquet files and drops useless images and texts that are no captions. It keeps the text
that fits each image best and writes tar files that `python -m data_pipelines.prepare image_text` reads. The counts of
all stages are written to funnel.json and funnel.png. The program runs on Apache Beam; the arguments after `--` are
Beam's own options. See docs/collect.md.
"""

from absl import app, flags, logging

from data_pipelines.beam.runner import check_arguments
from data_pipelines.cli import run_command
from data_pipelines.errors import DataError
from data_pipelines.storage.paths import local_path
from data_pipelines.web_collection.funnel import table
from data_pipelines.web_collection.run import chosen_by, collect
from data_pipelines.web_collection.settings import Settings
from data_pipelines.web_collection.texts import read_words

_DEFAULT = Settings()
_SOURCE = flags.DEFINE_string("source", None, "Folder with .tar or .parquet files, or one such file.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write; it must not exist yet.")
_IMAGE_FOLDER = flags.DEFINE_string(
    "image_folder", None, "Folder to which image_path in Parquet files is relative; default: --source."
)
_WORDS = flags.DEFINE_string(
    "words", None, "File of known words, one per line, or a vocab.txt; none: all words are known."
)
_RUNNER = flags.DEFINE_string("runner", "direct", "direct: this machine; or a runner of Beam, such as FlinkRunner.")

# Flags that are fields of Settings.
_FIELDS = [
    flags.DEFINE_list("language", list(_DEFAULT.language), "Languages of the pages that are kept; empty: all pages."),
    flags.DEFINE_enum(
        "unknown_language", _DEFAULT.unknown_language, ["keep", "drop"], "For pages that do not give their language."
    ),
    flags.DEFINE_integer("min_side", _DEFAULT.min_side, "Minimum length of both sides of an image, in pixels."),
    flags.DEFINE_integer("min_words", _DEFAULT.min_words, "Minimum number of words of a text."),
    flags.DEFINE_integer("max_words", _DEFAULT.max_words, "Maximum number of words of a text."),
    flags.DEFINE_float("min_letters", _DEFAULT.min_letters, "Minimum share of letters among a text's characters."),
    flags.DEFINE_float(
        "max_unknown_words", _DEFAULT.max_unknown_words, "With --words: maximum share of a text's words."
    ),
    flags.DEFINE_integer(
        "max_images_per_text", _DEFAULT.max_images_per_text, "A text of more images than this is boilerplate."
    ),
    flags.DEFINE_integer("max_texts_per_image", _DEFAULT.max_texts_per_image, "Further texts of an image are dropped."),
    flags.DEFINE_string("model", _DEFAULT.model, "Trained model that scores the texts; none: the longest text wins."),
    flags.DEFINE_enum(
        "checkpoint",
        _DEFAULT.checkpoint,
        ["best", "last"],
        "With --model: which checkpoint of a run; the last where it kept no best one.",
    ),
    flags.DEFINE_float("min_score", _DEFAULT.min_score, "With --model: minimum score of an image's best text."),
    flags.DEFINE_integer(
        "max_distance", _DEFAULT.max_distance, "Maximum number of bits between near-duplicates; -1: keep them."
    ),
    flags.DEFINE_string("split", _DEFAULT.split, "Name of the split to write."),
    flags.DEFINE_integer("images_per_shard", _DEFAULT.images_per_shard, "Images per tar file."),
]


def run(beam_options: list[str]) -> str:
    """Collect the data set that the flags describe and return the funnel as text; raises DataError."""
    for flag in (_SOURCE, _OUTPUT):
        if not flag.value:
            raise DataError(f"Give --{flag.name}: {flags.FLAGS[flag.name].help}")
    check_arguments(beam_options)
    if flags.FLAGS["min_score"].present and not flags.FLAGS["model"].value:
        raise DataError("--min_score needs a model that gives scores; give --model too, or leave it out.")
    fields = {flag.name: flag.value for flag in _FIELDS}
    fields["language"] = tuple(tag.lower() for tag in fields["language"] if tag)
    if _WORDS.value:
        fields["words"] = read_words(local_path(_WORDS.value, "words"))
    settings = Settings(**fields)
    rows = collect(
        local_path(_SOURCE.value, "source"),
        local_path(_OUTPUT.value, "output"),
        settings,
        image_folder=None if _IMAGE_FOLDER.value is None else local_path(_IMAGE_FOLDER.value, "image_folder"),
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
