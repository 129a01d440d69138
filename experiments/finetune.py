"""Fine-tune Pixel-BERT: `python -m experiments.finetune --config=FILE --workdir=FOLDER [--config.field=value ...]`.

The task is that of the config file. `--config.init.checkpoint=RUN` starts from a pre-trained model; a workdir that
holds a run resumes it. `python -m experiments.evaluate` then gives scores and writes the submission.
"""

import shlex
import sys

from experiments.pretrain import pretrain
from experiments.run.common_flags import WORKDIR, required
from experiments.run.config import RunConfig
from experiments.run.config_flags import run_main


def main(config: RunConfig) -> None:
    """Entry point behind the flags."""
    required(WORKDIR)
    pretrain(config, WORKDIR.value, shlex.join(["python", "-m", "experiments.finetune", *sys.argv[1:]]))


if __name__ == "__main__":
    run_main(main, many_processes=True)
