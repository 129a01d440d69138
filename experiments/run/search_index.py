"""The index of a folder of images, kept in a file."""

from data_pipelines.storage.paths import as_path
from experiments.run.progress import Progress, warn
from pixelbert_jax.image_index import ImageIndex
from pixelbert_jax.predictor import Predictor


def index_of(predictor: Predictor, folder: str | None, file: str | None, *, quiet: bool = False) -> ImageIndex:
    """The index in an existing file, or the index of a folder, which is saved to the file if one is named."""
    if file and as_path(file).exists():
        return ImageIndex.load(file, predictor)
    bars: list[Progress] = []

    def update(done: int, total: int) -> None:
        if not bars:  # only the index knows the number of images
            bars.append(Progress(total, 0))
        bars[0].update(done, "")

    index = predictor.index(folder) if quiet else predictor.index(folder, progress=update)
    for bar in bars:
        bar.close()
    for path, reason in index.skipped:
        warn(f"skipped: {path}: {reason}")
    if file:
        index.save(file)
    return index
