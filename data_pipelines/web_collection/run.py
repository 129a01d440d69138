"""One run: check everything, run the pipeline, and create the output folder atomically."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.beam.runner import DIRECT, import_with_beam, pipeline_options, run_pipeline
from data_pipelines.errors import DataError
from data_pipelines.storage.atomic_files import write_atomically
from data_pipelines.web_collection.drawing import draw
from data_pipelines.web_collection.funnel import Row, as_json, funnel
from data_pipelines.web_collection.scoring import check_model
from data_pipelines.web_collection.settings import Settings
from data_pipelines.web_collection.sources import find_parts


def collect(
    source: Path,
    output: Path,
    settings: Settings,
    *,
    image_folder: Path | None = None,
    runner: str = DIRECT,
    beam_options: Sequence[str] = (),
) -> list[Row]:
    """Collect the images of `source` and write SPLIT/*.tar, funnel.json and funnel.png to the folder `output`.

    Args:
      source: folder with tar and Parquet files, or one such file.
      output: folder that must not exist yet; it is created when everything is written.
      settings: the thresholds.
      image_folder: folder of the image files that Parquet files name; None: the source folder.
      runner: "direct" for this machine, or a runner of Beam.
      beam_options: options of the runner, such as "--direct_num_workers=4".

    Returns:
      The stages of the funnel.

    Raises:
      DataError: Apache Beam or the model is missing, the source or an option is wrong, or no image is left.
    """
    pipeline_module = import_with_beam("data_pipelines.web_collection.pipeline", "Collecting")
    source, output = source.expanduser().absolute(), output.expanduser().absolute()
    image_folder = None if image_folder is None else image_folder.expanduser().absolute()
    if output.exists():
        raise DataError(f"{output} exists; remove it or give another --output.")
    if output.is_relative_to(source):
        raise DataError(f"--output={output} is inside --source; give a folder beside it.")
    if not output.parent.is_dir():
        raise DataError(f"{output.parent} does not exist; make it, or give another --output.")
    if image_folder is not None and not image_folder.is_dir():
        raise DataError(f"--image_folder={image_folder} is not a folder; give the one that image_path starts from.")
    chosen = chosen_by(settings)
    options = pipeline_options(runner, beam_options, "runner", "docs/collect.md")
    folder, parts = find_parts(source)
    unfinished = output.with_name(f".{output.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        folders = pipeline_module.Folders(folder, image_folder or folder, unfinished)
        run_pipeline(lambda pipeline: pipeline_module.build(pipeline, parts, folders, settings), options)
        rows = funnel(pipeline_module.read_tallies(unfinished))
        (unfinished / pipeline_module.TALLIES_FILE).unlink()
        if not rows[-1].images_left:
            raise DataError(_nothing_left(rows, source))
        _write_funnel(unfinished, rows, settings, chosen)
        unfinished.rename(output)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return rows


def chosen_by(settings: Settings) -> str:
    """Describe for users how the text of each image is chosen; raises DataError if that model cannot do it."""
    if settings.model:
        model = check_model(settings.model, settings.checkpoint)
        return f"the best of each image by {model}, at least {settings.min_score:g}"
    return "the longest of each image; no model looked at the images"


def _nothing_left(rows: Sequence[Row], source: Path) -> str:
    if not rows[0].images:
        return f"--source={source} has no image; give the folder of the crawl."
    worst = max(rows, key=lambda row: (row.dropped_images, row.dropped_texts))
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in list(worst.tally.reasons.items())[:3])
    return (
        f"None of {rows[0].images:,} images is left; the stage {worst.stage!r} dropped {worst.dropped_images:,} of "
        f"them{f' ({reasons})' if reasons else ''}; loosen its flag."
    )


def _write_funnel(folder: Path, rows: Sequence[Row], settings: Settings, chosen: str) -> None:
    shards = sorted(path.name for path in (folder / settings.split).iterdir())
    content = {
        "images": rows[-1].images_left,
        "text": chosen,
        "settings": settings.summary(),
        "shards": shards,
        "stages": as_json(rows),
    }
    write_atomically(folder / "funnel.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    title = f"{rows[-1].images_left:,} of {rows[0].images:,} images are left; text: {chosen}"
    write_atomically(folder / "funnel.png", draw(rows, title))
