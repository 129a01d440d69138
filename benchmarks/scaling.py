"""Predicted weak and strong scaling of the two papers' models on TPU v5p, 8 to 4,096 chips, from compiled steps.

    python -m benchmarks.scaling

prints the tables of docs/scaling.md from benchmarks/scaling.json, which holds what `experiments.preflight` counted in
compiled steps. One more of those:

    python -m experiments.preflight --config=experiments/configs/pretrain_r50.py --topology=v5p:4x4x4 \\
        --output=found.json
    python -m benchmarks.scaling --add=r50=found.json

A row that was not compiled takes its work a chip from the compiled steps with more and with fewer images a chip, on a
straight line between them, and its transfers from the nearest of them, among as many chips as the row has. With more
images a chip than any compiled step, it lies on the line through the last two. With split parameters, a row outside of
the compiled ones is the data-parallel row plus what splitting changed where both have as many images a chip.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from data_pipelines.storage.atomic_files import write_atomically
from experiments.preflighting.chips import CHIPS, Slice, known_slices, parse_topology
from experiments.preflighting.collectives import Transfer
from experiments.preflighting.estimate import Counts, Estimate, estimate
from pixelbert_jax.errors import ConfigError

FILE = Path(__file__).with_name("scaling.json")
IMAGES = 1024  # of a step in strong scaling: the paper's 4,096 pairs
IMAGES_A_CHIP = 16  # in weak scaling
STEPS = 54_687  # 40 epochs of 1.4 million visits, see docs/scaling.md
_ADD = flags.DEFINE_string("add", None, "MODEL=FILE: keep what a preflight found as a compiled step of that model.")
_KIND = flags.DEFINE_string("kind", "v5p", "Kind of chip.")


@dataclasses.dataclass(frozen=True)
class Step:
    """A compiled step, as counted on one chip."""

    model: str
    topology: str
    images_a_chip: float
    fsdp: int
    memory: int  # bytes
    compile_seconds: float
    operations: float
    bytes_moved: float
    cycles: float
    transfers: tuple[Transfer, ...]

    @property
    def slice(self) -> Slice:
        return parse_topology(self.topology)

    @property
    def counts(self) -> Counts:
        return Counts(self.operations, self.bytes_moved, self.cycles, self.transfers)


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table."""

    slice: Slice
    images_a_chip: float
    fsdp: int
    times: Estimate
    compiled: bool
    beyond: bool  # more images a chip than any compiled step has

    @property
    def images_per_second(self) -> float:
        return self.images_a_chip * self.slice.chips / self.times.likely


def read_steps(file: Path) -> list[Step]:
    """The compiled steps that a file holds."""
    entries = json.loads(file.read_text())
    return [Step(**{**entry, "transfers": tuple(Transfer(**t) for t in entry["transfers"])}) for entry in entries]


def step_of(model: str, found: dict[str, Any]) -> Step:
    """The compiled step that a preflight's output is of; the first canvas counts.

    Raises:
      ConfigError: the step does not fit, or its slice leaves open which chips a transfer goes between.
    """
    canvas, fsdp = found["canvases"][0], found["mesh"]["fsdp"]
    if not canvas["fits"]:
        raise ConfigError(f"The step for {found['topology']} does not fit; add one that does.")
    if fsdp > 1 and fsdp * fsdp == found["devices"]:
        raise ConfigError(
            f"mesh.fsdp={fsdp} on {fsdp * fsdp} chips makes groups of one size for parameters and for rows; compile "
            "for another number of chips."
        )
    same: dict[tuple, int] = {}
    for transfer in canvas["transfers"]:
        key = (transfer["kind"], transfer["bytes"], transfer["group"], transfer["overlapped"])
        same[key] = same.get(key, 0) + transfer["times"]
    return Step(
        model=model,
        topology=found["topology"],
        images_a_chip=found["images"] / found["devices"],
        fsdp=fsdp,
        memory=canvas["memory"]["total"],
        compile_seconds=canvas["compile_seconds"],
        operations=canvas["operations"],
        bytes_moved=canvas["bytes_moved"],
        cycles=canvas["compiler_cycles"],
        transfers=tuple(
            Transfer(kind, size, group, times, beside) for (kind, size, group, beside), times in same.items()
        ),
    )


def make_row(
    steps: Sequence[Step], slice_: Slice, images_a_chip: float, data_parallel: Sequence[Step] = ()
) -> Row | None:
    """The row of a slice from the steps of one model and one `fsdp`; None: no steps to take its numbers from.

    Args:
      steps: what was compiled.
      slice_: of the row.
      images_a_chip: of the row.
      data_parallel: the model's steps without split parameters, for rows outside of `steps`.
    """
    exact = next((s for s in steps if s.topology == slice_.name and s.images_a_chip == images_a_chip), None)
    counts = exact.counts if exact else between(steps, slice_.chips, images_a_chip)
    counts = counts or beside(steps, data_parallel, slice_.chips, images_a_chip)
    if counts is None:
        return None
    beyond = all(images_a_chip > step.images_a_chip for step in (*steps, *data_parallel))
    return Row(slice_, images_a_chip, steps[0].fsdp, estimate(counts, slice_), exact is not None, beyond)


def between(steps: Sequence[Step], chips: int, images_a_chip: float) -> Counts | None:
    """Counts of a step that was not compiled; None: a smaller one was not compiled, or no other one."""
    ordered = sorted(steps, key=lambda s: s.images_a_chip)
    fewer = [s for s in ordered if s.images_a_chip < images_a_chip]
    enough = [s for s in ordered if s.images_a_chip >= images_a_chip]
    if enough and (fewer or enough[0].images_a_chip == images_a_chip):
        above = enough[0]
        below = fewer[-1] if above.images_a_chip > images_a_chip else above
    elif not enough and len({s.images_a_chip for s in fewer}) > 1:
        above = fewer[-1]
        below = [s for s in fewer if s.images_a_chip < above.images_a_chip][-1]
    else:
        return None
    span = above.images_a_chip - below.images_a_chip
    share = (images_a_chip - below.images_a_chip) / span if span else 0.0

    def line(name: str) -> float:
        return getattr(below, name) + share * (getattr(above, name) - getattr(below, name))

    nearest = below if share < 0.5 else above
    return Counts(line("operations"), line("bytes_moved"), line("cycles"), spread(nearest, chips))


def beside(steps: Sequence[Step], data_parallel: Sequence[Step], chips: int, images_a_chip: float) -> Counts | None:
    """Counts of a step with split parameters: the data-parallel ones, plus what splitting changed where both are known.

    Splitting moves and sums parameters, of which there are as many with few images as with many. None: nowhere.
    """
    base = between(data_parallel, chips, images_a_chip)
    pairs = [(one, two) for one in steps for two in data_parallel if one.images_a_chip == two.images_a_chip]
    if base is None or not pairs:
        return None
    split, whole = pairs[0]
    return Counts(
        base.operations + split.operations - whole.operations,
        base.memory_bytes + split.bytes_moved - whole.bytes_moved,
        base.cycles + split.cycles - whole.cycles,
        spread(split, chips),
    )


def spread(step: Step, chips: int) -> tuple[Transfer, ...]:
    """The transfers of a step among another number of chips; groups that share parameters stay as large as they are."""
    groups = {step.slice.chips: chips, step.slice.chips // step.fsdp: chips // step.fsdp, step.fsdp: step.fsdp}
    if step.fsdp == 1:
        groups = {step.slice.chips: chips}
    return tuple(dataclasses.replace(t, group=groups.get(t.group, t.group)) for t in step.transfers)


def table(steps: Sequence[Step], kind: str, strong: bool, data_parallel: Sequence[Step] = ()) -> list[str]:
    """A table in Markdown over the usual slices from 8 chips on; arguments as of `make_row`."""
    slices = [parse_topology(name) for chip in CHIPS if chip.name == kind for name in known_slices(chip)]
    lines = [
        "| chips | slice | images a chip | step, s | network | most is | images/s | against 8 chips | images/s a host |"
        + (" hours | chip-hours |" if strong else ""),
        "|---|---|---|---|---|---|---|---|---|" + ("---|---|" if strong else ""),
    ]
    first = None
    for slice_ in slices:
        images = IMAGES / slice_.chips if strong else IMAGES_A_CHIP
        row = make_row(steps, slice_, images, data_parallel) if slice_.chips >= 8 and images >= 1 else None
        if row is None:
            continue
        first = first or row
        efficiency = row.images_per_second / slice_.chips / (first.images_per_second / first.slice.chips)
        network = (row.times.network + row.times.hidden_network) / row.times.likely
        cells = [
            f"{slice_.chips:,}{' *' if row.compiled else ' ~' if row.beyond else ''}",
            slice_.name.split(":")[1],
            f"{images:g}",
            f"{row.times.likely:.3g}",
            f"{network:.1%}",
            row.times.limit,
            f"{row.images_per_second:,.0f}",
            f"{efficiency:.0%}",
            f"{row.images_per_second / slice_.chips * slice_.chip.host_chips[0]:,.0f}",
        ]
        if strong:
            hours = STEPS * row.times.likely / 3600
            cells += [f"{hours:.3g}", f"{hours * slice_.chips:,.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main(_: Sequence[str]) -> None:
    """Entry point behind the flags."""
    steps = read_steps(FILE) if FILE.exists() else []
    if _ADD.value:
        model, _, file = _ADD.value.partition("=")
        new = step_of(model, json.loads(Path(file).read_text()))
        same = ("model", "topology", "images_a_chip", "fsdp")
        steps = [s for s in steps if any(getattr(s, name) != getattr(new, name) for name in same)] + [new]
        steps.sort(key=lambda s: (s.model, s.fsdp, s.slice.chips, s.images_a_chip))
        write_atomically(FILE, json.dumps([dataclasses.asdict(s) for s in steps], indent=1) + "\n")
    steps = [s for s in steps if s.slice.chip.name == _KIND.value]
    for strong in (True, False):
        for model, fsdp in sorted({(s.model, s.fsdp) for s in steps}):
            chosen, whole = ([s for s in steps if (s.model, s.fsdp) == (model, share)] for share in (fsdp, 1))
            lines = table(chosen, _KIND.value, strong, whole)
            if len(lines) > 2:
                size = f"{IMAGES} images a step" if strong else f"{IMAGES_A_CHIP} images a chip"
                sharing = "data-parallel" if fsdp == 1 else f"parameters split over {fsdp} chips"
                print(f"\n{'Strong' if strong else 'Weak'} scaling, {model}, {sharing}, {size}:\n")
                print("\n".join(lines))


if __name__ == "__main__":
    app.run(main)
