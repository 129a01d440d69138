"""What benchmarks that train several variants share: running programs, reading their scores, a table."""

import re
import subprocess
import sys
from collections.abc import Mapping, Sequence

import numpy as np


def run(command: Sequence[str]) -> str:
    """What a module of this project prints, given its name and arguments; a failure ends the benchmark."""
    print("python -m " + " ".join(command), flush=True)
    done = subprocess.run([sys.executable, "-m", *command], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout[-2000:])
    return done.stdout


def metrics_in(printed: str) -> dict[str, float]:
    """The scores in what evaluate prints."""
    return {key: float(value) for key, value in re.findall(r"^(\S+) {2,}([\d.]+)$", printed, re.MULTILINE)}


def table_of(metrics: Sequence[str], rows: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Markdown: mean, and standard deviation over seeds where there are several."""
    lines = [f"| | {' | '.join(metrics)} |", "|---" * (len(metrics) + 1) + "|"]
    for label, runs in rows.items():
        cells = []
        for figure in metrics:
            values = [run[figure] for run in runs if figure in run]
            spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.3f}{spread}" if values else "")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
