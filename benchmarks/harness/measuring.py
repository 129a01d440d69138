"""What the benchmarks share: machine and versions, the largest image of a config, operations, the report."""

import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from absl import flags
from jax.sharding import Mesh

from data_pipelines.config import DataConfig
from data_pipelines.images.resize import Canvas
from data_pipelines.storage.atomic_files import write_atomically
from pixelbert_jax.config import PixelBertConfig

IMAGES = flags.DEFINE_integer("images", 1, "Images a step or turn, on all devices together.", lower_bound=1)
VOCABULARY = 30522  # tokens, where the config takes the number from a vocabulary


def machine(mesh: Mesh) -> dict[str, Any]:
    """Hardware and versions; that of a package that is not there is None."""
    return {"device": mesh.devices.flat[0].device_kind, "devices": mesh.devices.size, **host()}


def host(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Processor, its cores that this process may use, versions, glibc's settings; no device is started.

    Args:
      environment: that of what is measured, where this process has another.
    """
    return {
        "host": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": sys.version.split()[0],
        **{name: _version(name) for name in ("jax", "jaxlib", "flax", "numpy", "torch")},
        "glibc_tunables": environment.get("GLIBC_TUNABLES", ""),
    }


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name as Linux states it; elsewhere what Python knows of it."""
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, names), "") or platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def with_vocabulary(model: PixelBertConfig) -> PixelBertConfig:
    """The model with a vocabulary of BERT's size, if it has none of its own."""
    text = dataclasses.replace(model.text, vocabulary_size=model.text.vocabulary_size or VOCABULARY)
    return dataclasses.replace(model, text=text)


def largest_image(data: DataConfig) -> tuple[Canvas, Canvas]:
    """The largest canvas, and the size of an image that fills what the resize rule lets it fill of the canvas."""
    height, width = max(data.all_canvases, key=lambda canvas: (canvas[0] * canvas[1], canvas[1]))
    shorter, longer = data.resize.shorter_edge, data.resize.longer_edge
    return (height, width), (shorter, longer) if width >= height else (longer, shorter)


def countable(model: PixelBertConfig) -> PixelBertConfig:
    """The model for `operations`: without a loop over the layers, of which one turn is counted, or recomputation."""
    encoder = dataclasses.replace(model.encoder, scan_unroll=model.encoder.layers, remat="none")
    backbone = dataclasses.replace(model.backbone, remat=False)
    return dataclasses.replace(model, backbone=backbone, encoder=encoder)


def operations(function: Callable, *arguments: Any) -> float:
    """Floating-point operations of a program without loops, as the compiler counts them before it optimises.

    After that, what it hands to a library (cuDNN, cuBLAS) may no longer be counted. NaN where it counts nothing.
    """
    return float((jax.jit(function).lower(*arguments).cost_analysis() or {}).get("flops", math.nan))


def rounded(value: float) -> float:
    """To four digits."""
    return float(f"{value:.4g}")


def report(result: dict[str, Any], output: str | None) -> None:
    """Print a result as JSON, and write it to a file if one is named."""
    text = json.dumps(result, indent=1)
    print(text)
    if output:
        write_atomically(Path(output), text + "\n")
