"""Detect the regions of the images in a folder, for ImageBERT.

    python -m data_pipelines.detect_regions --images=FOLDER --detector=NAME --output=regions

runs an object detector of the DETR family from Hugging Face, a local folder or a name on the hub, and writes one .npz
file per image, which `python -m data_pipelines.prepare NAME --regions=regions` reads. The same command continues a run
that was stopped. Needs `pip install 'pixelbert_jax[detect]'`. See docs/data.md.
"""

import os

from absl import app, flags

from data_pipelines.cli import run_command
from data_pipelines.errors import DataError
from data_pipelines.progress import Progress
from data_pipelines.regions.detecting import detect_folder, find_images
from data_pipelines.regions.detector import Detector
from data_pipelines.storage.detectors import named
from data_pipelines.storage.paths import local_path

_IMAGES = flags.DEFINE_string("images", None, "Folder with image files, in it or below it.")
_DETECTOR = flags.DEFINE_string("detector", None, "Folder of a detector, or its name on the Hugging Face hub.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write; the regions of PATH are in PATH.npz.")
_TOP = flags.DEFINE_integer("top", 100, "Regions to keep per image: those of the highest confidence.")
_MIN_CONFIDENCE = flags.DEFINE_float("min_confidence", 0.0, "Drop regions of a lower confidence, 0 to 1.")
_UPRIGHT = flags.DEFINE_bool(
    "upright",
    True,
    "Turn images by their orientation tag, as prepare does for your own images (image_text, vqa); --noupright for "
    "published sets, whose images prepare reads as they are stored.",
)
_DEVICE = flags.DEFINE_enum("device", "auto", ["auto", "cpu", "cuda"], "auto: a GPU if there is one.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Images of one size that go through the model together.")
_NUM_THREADS = flags.DEFINE_integer("num_threads", min(8, os.cpu_count() or 1), "Threads that read and decode images.")


def run(arguments: list[str]) -> str:
    """Detect what the flags describe and return the summary; raises DataError."""
    if arguments:
        raise DataError(f"{arguments[0]} is not a flag; give --images, --detector and --output.")
    for flag in (_IMAGES, _DETECTOR, _OUTPUT):
        if not flag.value:
            raise DataError(f"Give --{flag.name}; the program needs --images, --detector and --output.")
    if _NUM_THREADS.value < 1:
        raise DataError(f"--num_threads={_NUM_THREADS.value} is not positive.")
    folder, output = (local_path(flag.value, flag.name) for flag in (_IMAGES, _OUTPUT))
    images = find_images(folder)
    detector = Detector.load(
        _DETECTOR.value,
        device=_DEVICE.value,
        top=_TOP.value,
        min_confidence=_MIN_CONFIDENCE.value,
        batch_size=_BATCH_SIZE.value,
    )
    progress = Progress()
    try:
        report = detect_folder(
            folder,
            images,
            output,
            detector,
            upright=_UPRIGHT.value,
            num_threads=_NUM_THREADS.value,
            start=progress.start,
            step=progress.step,
        )
    finally:
        progress.close()
    about = detector.description
    sizes = f"features of {about['feature_size']:,} numbers, {len(about['classes']):,} classes"
    return "\n".join([f"{output}: {named(about)}, {sizes}", *report.lines()])


def main(argv: list[str]) -> None:
    """Entry point; see `run_command`."""
    run_command(run, argv)


if __name__ == "__main__":
    app.run(main)
