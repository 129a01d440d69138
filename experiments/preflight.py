"""Compile a config's train step for a TPU slice on a machine without a TPU, and predict its memory and time.

    python -m experiments.preflight --config=FILE --topology=v5e:8x8 [--config.field=value ...]

It reports whether the step fits, what limits it, and how long a step and the whole run are likely to take
(docs/scaling.md). It needs no data; if the data is prepared, its index gives the number of steps. The first use for a
TPU downloads its compiler. The exit code is 1 if the step does not fit or the run would be refused. If the step does
not fit, it searches for flags that make it fit.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any

import jax
from absl import flags

from data_pipelines.images.resize import Canvas
from data_pipelines.storage.atomic_files import write_atomically
from experiments.preflighting import environment, report
from experiments.preflighting.chips import Slice, find_chip, parse_topology
from experiments.preflighting.fitting import Attempt, search
from experiments.preflighting.length import find_length
from experiments.preflighting.program import (
    compile_step,
    complete,
    devices_of,
    make_step,
    mesh_of,
    refusal,
)
from experiments.run.common_flags import OUTPUT, new_file, required
from experiments.run.config import RunConfig
from experiments.run.config_flags import run_main
from experiments.run.progress import say
from experiments.run.validation import validate
from pixelbert_jax.errors import ConfigError

_TOPOLOGY = flags.DEFINE_string("topology", None, "Slice to compile for, such as v5e:8x8; local: the devices here.")
_CANVASES = flags.DEFINE_string("canvases", "largest", "Canvases to compile: largest, all, or HxW,HxW.")
_VISITS = flags.DEFINE_integer("visits_per_epoch", 0, "Images per epoch, if no data is prepared.", lower_bound=0)
_TRIES = flags.DEFINE_integer("tries", 6, "Most compilations in the search for what fits; 0: none.", lower_bound=0)


def choose_canvases(config: RunConfig, choice: str) -> list[Canvas]:
    """The canvases to compile, the largest first.

    Raises:
      ConfigError: a canvas that the config does not have.
    """
    by_size = sorted(config.data.all_canvases, key=lambda canvas: (canvas[0] * canvas[1], canvas[1]), reverse=True)
    if choice == "largest":
        return by_size[:1]
    if choice == "all":
        return by_size
    names = {"x".join(map(str, canvas)): canvas for canvas in by_size}
    unknown = [name for name in choice.split(",") if name not in names]
    if unknown:
        raise ConfigError(f"--canvases={choice}: the config has no {unknown[0]}; it has {', '.join(names)}.")
    return [canvas for name, canvas in names.items() if name in choice.split(",")]


def preflight(
    config: RunConfig,
    devices: Sequence[jax.Device],
    slice_: Slice | None,
    *,
    canvases: str = "largest",
    visits_per_epoch: int = 0,
    tries: int = 6,
) -> dict[str, Any]:
    """Compile, count, estimate, and print the result.

    Args:
      config: the run.
      devices: what to compile for.
      slice_: what the devices are; None: not in the table of chips.
      canvases: which to compile, see `choose_canvases`.
      visits_per_epoch: images per epoch; 0: those of the prepared data.
      tries: most compilations in the search for what fits.

    Returns:
      All that was found; "ok" is False if the step does not fit or the run would be refused.
    """
    chosen = choose_canvases(config, canvases)
    length = find_length(config, visits_per_epoch)
    config = complete(config)
    mesh = mesh_of(config, devices)
    hosts = len({device.process_index for device in devices})
    where = slice_.name if slice_ else devices[0].device_kind
    for line in report.head_lines(config, where, len(devices), hosts, dict(mesh.shape)):
        say(line)
    refused = refusal(config, make_step(config, mesh)[1])
    if refused:
        say(f"the run would be refused: {refused}")
    reports, misfit = [], None
    for canvas in chosen:
        result = compile_step(config, mesh, canvas)
        reports.append(report.canvas_report(config, result, slice_, len(devices)))
        for line in report.canvas_lines(reports[-1], slice_):
            say(line)
        if not report.fits(result, slice_) and misfit is None:
            misfit = canvas
    run = report.run_report(length, reports, len(devices))
    for line in report.run_lines(run, length):
        say(line)
    found = None
    if misfit is not None and tries:
        found = _find_what_fits(config, devices, slice_, misfit, tries)
    return {
        "topology": where,
        "devices": len(devices),
        "hosts": hosts,
        "mesh": dict(mesh.shape),
        "images": config.data.batch_images,
        "texts_per_image": config.data.texts_per_image,
        "accumulation": config.train.accumulation,
        "canvases": reports,
        "run": run,
        "refused": refused,
        "fits_with": found.flags if found else None,
        "ok": misfit is None and not refused,
    }


def _find_what_fits(
    config: RunConfig, devices: Sequence[jax.Device], slice_: Slice | None, canvas: Canvas, tries: int
) -> Attempt | None:
    def attempted(attempt: Attempt) -> None:
        entry = report.canvas_report(config, attempt.result, slice_, len(devices))
        say(f"with {attempt.flags}:")
        for line in report.canvas_lines(entry, slice_)[:2]:
            say(line)

    say("searching for what fits; each attempt keeps the flags of the one before")
    found = search(config, devices, canvas, lambda result: report.fits(result, slice_), tries, attempted, compile_step)
    if found:
        say(f"fits with {found.flags}")
    else:
        say("nothing that was tried fits; take more chips, chips with more memory, or a smaller data.batch_images")
    return found


def main(config: RunConfig) -> None:
    """Entry point behind the flags."""
    required(_TOPOLOGY)
    output = new_file(OUTPUT.value, ".json") if OUTPUT.value else None
    local = _TOPOLOGY.value == "local"
    slice_ = None if local else parse_topology(_TOPOLOGY.value)
    if slice_ and not environment.inside():
        sys.exit(environment.run_again("experiments.preflight", sys.argv[1:]))
    validate(config)
    devices = jax.devices() if slice_ is None else devices_of(slice_)
    if slice_ is None:
        chip = find_chip(devices[0].device_kind)
        slice_ = Slice(chip, (len(devices),)) if chip else None
    found = preflight(
        config,
        devices,
        slice_,
        canvases=_CANVASES.value,
        visits_per_epoch=_VISITS.value,
        tries=_TRIES.value,
    )
    if output:
        write_atomically(output, json.dumps(found, indent=1) + "\n")
    if not found["ok"]:
        sys.exit(1)


if __name__ == "__main__":
    run_main(main)
