"""Preparing data sets of growing size, with and without Apache Beam: memory, images a second, and the same bytes.

    python -m benchmarks.cpu.preparing --sizes=1000,10000,100000 --output=benchmarks/results/preparing.json
    python -m benchmarks.cpu.preparing --sizes=1000,10000,100000 --workers=8

Drawn scenes are saved as JPEG files with lines of JSON in a folder that is removed at the end, and prepared as
`image_text`, each size in each way by a command of its own:

    plain    one process
    beam     Beam's direct runner: workers in that process, or with --workers=N over 1 in N processes

Memory is the greatest sum over the command's process and those that it started, sampled twenty times a second; pages
that they share count for each. Speed is of the whole command, start-up and index included, by the clock and by the
processors' time, which other programs on the machine disturb less. TMPDIR says where the files lie. Prints one JSON
object and writes it to --output=FILE. Needs Linux.
"""

import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
from absl import app, flags

from benchmarks.harness.measuring import report, rounded
from data_pipelines.datasets import shapes_scene
from experiments.run.common_flags import OUTPUT

WAYS = ("plain", "beam")
_SIZES = flags.DEFINE_list("sizes", ["1000", "10000", "100000"], "Numbers of images, growing.")
_WORKERS = flags.DEFINE_integer("workers", 1, "Worker processes of Beam; with 1 they are threads.", lower_bound=1)
_FILES = flags.DEFINE_integer("files", None, "--num_shards of prepare.")
_PAGE = resource.getpagesize()
_SIDE = 64  # pixels
_DISTINCT = 1000  # images


def draw(folder: Path, number: int) -> None:
    """Save so many scenes as JPEG, a thousand to a folder, and a file of lines with all of them.

    After the first thousand the images come again, under other names.
    """
    images = []
    with (folder / "all.lines").open("w") as lines:
        for i in range(number):
            if i < _DISTINCT:
                scene = shapes_scene.scene(0, "train", i)
                pixels_HxWx3 = shapes_scene.render(scene, _SIDE)[..., ::-1]
                images.append((cv2.imencode(".jpg", pixels_HxWx3)[1].tobytes(), shapes_scene.captions(scene)))
            encoded, captions = images[i % _DISTINCT]
            path = folder / f"{i // 1000:05d}" / f"{i:09d}.jpg"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(encoded)
            entry = {"image": str(path.relative_to(folder)), "texts": [f"{text}, number {i}" for text in captions]}
            lines.write(json.dumps(entry) + "\n")


def measure(folder: Path, number: int, way: str, workers: int = 1, num_shards: int | None = None) -> dict[str, Any]:
    """Prepare the first images that `draw` saved.

    Returns:
      images, way, seconds, images_per_second, images_per_processor_second, peak_mib, processes, and the digest of all
      files that were written.
    """
    with (folder / "all.lines").open() as lines, (folder / "train.jsonl").open("w") as chosen:
        for _ in range(number):
            chosen.write(next(lines))
    with tempfile.TemporaryDirectory(dir=folder.parent) as data_dir:
        command = [sys.executable, "-m", "data_pipelines.prepare", "image_text"]
        command += [f"--source_dir={folder}", f"--data_dir={data_dir}", "--num_threads=2"]
        command += [] if num_shards is None else [f"--num_shards={num_shards}"]
        if way == "beam":
            command.append("--beam_runner=direct")
            mode = ["--direct_running_mode=multi_processing"] if workers > 1 else []
            command += ["--", f"--direct_num_workers={workers}", *mode]
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
            peak, processes = _watch(process)
            if process.returncode:
                errors.seek(0)
                sys.exit(f"error: {' '.join(command)}: {errors.read().decode()[-2000:]}")
        seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
        busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return {
            "images": number,
            "way": way,
            "seconds": rounded(seconds),
            "images_per_second": rounded(number / seconds),
            "images_per_processor_second": rounded(number / busy),
            "peak_mib": rounded(peak / (1 << 20)),
            "processes": processes,
            "digest": _digest(Path(data_dir) / "image_text"),
        }


def _watch(process: subprocess.Popen) -> tuple[int, int]:
    """Greatest sum of resident bytes, and greatest number, of a process and all below it, until it ends."""
    peak = most = 0
    while process.poll() is None:
        sizes = [size for size in map(_resident, _tree(process.pid)) if size]
        peak, most = max(peak, sum(sizes)), max(most, len(sizes))
        time.sleep(0.05)
    return peak, most


def _tree(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += map(int, children.read_text().split())
            except OSError:  # that thread has just ended
                continue
    return found


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):  # it has just ended
        return 0


def _digest(folder: Path) -> str:
    """Of the names and bytes of all files, in this order."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(path for path in folder.glob("*/*") if path.is_file()):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()


def compare(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Growth of memory from the least to the greatest size of each way, Beam's speed against plain, equality."""
    by_way = {way: [row for row in rows if row["way"] == way] for way in WAYS}
    pairs = list(zip(*by_way.values(), strict=True))
    growth = {}
    for way, its_rows in by_way.items():
        first, last = its_rows[0], its_rows[-1]
        added = last["peak_mib"] - first["peak_mib"]
        growth[way] = {
            "ratio": rounded(last["peak_mib"] / first["peak_mib"]),
            "bytes_an_image": rounded(added * (1 << 20) / max(last["images"] - first["images"], 1)),
        }
    return {
        "memory_growth": growth,
        "beam_speed_against_plain": [
            rounded(beam["images_per_processor_second"] / plain["images_per_processor_second"]) for plain, beam in pairs
        ],
        "same_bytes": all(plain["digest"] == beam["digest"] for plain, beam in pairs),
    }


def run(sizes: Sequence[int], workers: int = 1, num_shards: int | None = None) -> dict[str, Any]:
    """All sizes in both ways, in turn."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "images"
        folder.mkdir()
        draw(folder, max(sizes))
        rows = [measure(folder, size, way, workers, num_shards) for size in sizes for way in WAYS]
    return {"workers": workers, "num_shards": num_shards, "rows": rows, **compare(rows)}


def main(argv: Sequence[str]) -> None:
    """Entry point."""
    del argv
    report(run([int(size) for size in _SIZES.value], _WORKERS.value, _FILES.value), OUTPUT.value)


if __name__ == "__main__":
    app.run(main)
