"""The index of a folder of images, kept in a file."""

from data_pipelines.storage.paths import as_path
from experiments.run.progress import Progress, warn
from pixelbert_jax.image_index import ImageIndex, images_below
from pixelbert_jax.predictor import Predictor


def index_of(predictor: Predictor, folder: str | None, file: str | None, *, quiet: bool = False) -> ImageIndex:
    """The index in an existing file, or the index of a folder, which is saved to the file if one is named."""
    if file and as_path(file).exists():
        return ImageIndex.load(file, predictor)
    if quiet:
        index = predictor.index(folder)
    else:
        progress = Progress(len(images_below(as_path(folder))), 0)
        index = predictor.index(folder, progress=lambda done, _: progress.update(done, ""))
        progress.close()
    for path, reason in index.skipped:
        warn(f"skipped: {path}: {reason}")
    if file:
        index.save(file)
    return index
