"""The preflight's report: a dictionary for a file, and lines for a person."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from data_pipelines.images.resize import Canvas
from experiments.preflighting.chips import GIB, Slice
from experiments.preflighting.collectives import by_kind
from experiments.preflighting.estimate import CHIP_EFFICIENCY, LINK_EFFICIENCY, Estimate, estimate
from experiments.preflighting.length import Length
from experiments.preflighting.program import Compiled, Memory, TooLarge
from experiments.run.config import RunConfig

HOURS = 3600


def fits(result: Compiled | TooLarge, slice_: Slice | None) -> bool:
    """Whether a step fits a chip's memory. If the memory is not known, it fits unless the compiler refused it."""
    if isinstance(result, TooLarge):
        return False
    return slice_ is None or result.memory.total <= slice_.chip.memory


def canvas_report(config: RunConfig, result: Compiled | TooLarge, slice_: Slice | None, devices: int) -> dict[str, Any]:
    """One canvas: memory, operations, transfers, and on a known slice the time."""
    report: dict[str, Any] = {
        "canvas": list(result.canvas),
        "fits": fits(result, slice_),
        "compile_seconds": round(result.seconds, 1),
    }
    if isinstance(result, TooLarge):
        return report | {"needed_bytes": result.needed}
    counts = result.counts
    report |= {
        "memory": dataclasses.asdict(result.memory) | {"total": result.memory.total},
        "operations": counts.operations,
        "bytes_moved": counts.memory_bytes,
        "compiler_cycles": counts.cycles,
        "collectives": by_kind(list(counts.transfers)),
        "transfers": [dataclasses.asdict(transfer) for transfer in counts.transfers],
        "loops_counted_once": list(result.unknown_loops),
    }
    if slice_ is None:
        return report
    times = estimate(counts, slice_)
    images = config.data.batch_images
    report["seconds"] = dataclasses.asdict(times) | {"limit": times.limit}
    report["images_per_second"] = images / times.likely
    report["pairs_per_second"] = images * config.data.texts_per_image / times.likely
    report["images_per_second_per_host"] = {str(n): images / times.likely * n / devices for n in slice_.chip.host_chips}
    return report


def run_report(length: Length | None, canvases: Sequence[dict[str, Any]], chips: int) -> dict[str, Any] | None:
    """The whole run: steps, hours, chip-hours. A canvas that was not compiled counts as the largest that was.

    None: the length or the times are not known.
    """
    seconds = {tuple(entry["canvas"]): entry["seconds"]["likely"] for entry in canvases if "seconds" in entry}
    if length is None or not seconds:
        return None
    slowest = max(seconds.values())
    parts = length.by_canvas or {}
    known = {canvas: steps for canvas, steps in parts.items() if canvas in seconds}
    total = sum(steps * seconds[canvas] for canvas, steps in known.items())
    total += (length.steps - sum(known.values())) * slowest
    return {
        "steps": length.steps,
        "steps_from": length.source,
        "steps_by_canvas": {_name(canvas): round(steps, 1) for canvas, steps in parts.items()},
        "steps_on_compiled_canvases": round(sum(known.values()), 1),
        "hours": total / HOURS,
        "chip_hours": total / HOURS * chips,
    }


def head_lines(config: RunConfig, where: str, devices: int, hosts: int, mesh: dict[str, int]) -> list[str]:
    """What is compiled, and for which devices."""
    data = config.data
    sides = ", ".join(f"{name}={size}" for name, size in mesh.items())
    return [
        f"{where}: {devices} devices on {hosts} host(s), mesh {sides}; {data.batch_images} images and "
        f"{data.batch_images * data.texts_per_image} pairs per step, {data.batch_images / devices:g} images per device"
        + (f" in {config.train.accumulation} micro-batches" if config.train.accumulation > 1 else "")
    ]


def canvas_lines(report: dict[str, Any], slice_: Slice | None) -> list[str]:
    """A canvas's report for a person."""
    name = _name(report["canvas"])
    if "memory" not in report:
        needed = report["needed_bytes"]
        amount = f"needs {needed / GIB:.2f} of" if needed else "needs more than"
        capacity = f"{slice_.chip.memory / GIB:.2f} GiB" if slice_ else "a device's memory"
        return [f"{name}: does not fit: {amount} {capacity} (compiled for {report['compile_seconds']:.0f} s)"]
    memory = Memory(**{key: value for key, value in report["memory"].items() if key != "total"})
    parts = {
        name: getattr(memory, name) / GIB for name in ("arguments", "outputs", "aliased", "temporaries", "program")
    }
    capacity = f" of {slice_.chip.memory / GIB:.2f}" if slice_ else ""
    lines = [
        f"{name}: compiled in {report['compile_seconds']:.0f} s",
        f"  memory per chip     {memory.total / GIB:.2f}{capacity} GiB{'' if report['fits'] else '; DOES NOT FIT'}: "
        + "arguments {arguments:.2f}, outputs {outputs:.2f} of which {aliased:.2f} in place of arguments, "
        "temporaries {temporaries:.2f}, program {program:.2f}".format(**parts),
        f"  work per chip       {report['operations'] / 1e12:.4g} TFLOP in matrix products, "
        f"{report['bytes_moved'] / 1e9:.4g} GB to and from memory",
        f"  between chips       {_collectives(report['collectives'])}",
    ]
    if report["loops_counted_once"]:
        lines.append(f"  counted too low     loops counted as one iteration: {', '.join(report['loops_counted_once'])}")
    if slice_ is None:
        return lines
    seconds = report["seconds"]
    times = Estimate(**{key: value for key, value in seconds.items() if key != "limit"})
    hosts = report["images_per_second_per_host"]
    return [
        *lines,
        f"  step at least       {times.least:.4g} s at the peak rates: matrix units {times.matrix:.4g}, memory "
        f"{times.memory:.4g}, network {times.network:.4g}"
        + (f" and {times.hidden_network:.4g} beside other work" if times.hidden_network else "")
        + f"; most is {seconds['limit']}",
        f"  step likely         {times.likely:.4g} s: the larger of {CHIP_EFFICIENCY:.0%} of the peaks and the "
        f"compiler's own {times.compiler:.4g} s, plus the network at {LINK_EFFICIENCY:.0%}",
        f"  then                {report['images_per_second']:,.0f} images and {report['pairs_per_second']:,.0f} pairs "
        "per second; to load per host: "
        + ", ".join(f"{rate:,.0f} images per second for {chips} chips" for chips, rate in hosts.items()),
    ]


def run_lines(run: dict[str, Any] | None, length: Length | None) -> list[str]:
    """The whole run for a person."""
    if length is None:
        return ["whole run: its length is not known; prepare the data, or give --visits_per_epoch=NUMBER"]
    if run is None:
        return [f"whole run: {length.steps:,} steps ({length.source})"]
    rest = run["steps"] - run["steps_on_compiled_canvases"]
    note = "" if rest < 1 else f"; {rest:,.0f} of them counted as on the largest canvas that was compiled"
    return [
        f"whole run: {run['steps']:,} steps ({run['steps_from']}){note}: {run['hours']:.3g} hours, "
        f"{run['chip_hours']:.4g} chip-hours"
    ]


def _collectives(found: dict[str, dict[str, int]]) -> str:
    parts = [f"{kind} {entry['count']} times, {entry['bytes'] / 1e6:.4g} MB" for kind, entry in found.items()]
    return "; ".join(parts) or "nothing"


def _name(canvas: Canvas | Sequence[int]) -> str:
    return "x".join(map(str, canvas)) if any(canvas) else "regions"
