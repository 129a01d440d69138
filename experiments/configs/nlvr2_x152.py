"""The paper's larger model on NLVR2: ResNeXt-152, images of 600 x at most 1000 pixels; else as in nlvr2_r50.

    python -m data_pipelines.prepare nlvr2 --source_dir=/path/to/nlvr2 --data_dir=data
    python -m experiments.finetune --config=experiments/configs/nlvr2_x152.py --workdir=runs/nlvr2_x152 \\
        --config.init.checkpoint=runs/x152
    python -m experiments.evaluate --workdir=runs/nlvr2_x152 --split=test1 --output=predictions.csv

Expected, from the paper: dev 76.5, test-P 77.2. Nobody has run this file to its end yet.
"""

import dataclasses

from experiments.configs import nlvr2_r50, vqa_x152
from experiments.run.config import RunConfig


def get_config() -> RunConfig:
    """nlvr2_r50 with the model and the image size of pretrain_x152."""
    config, larger = nlvr2_r50.get_config(), vqa_x152.get_config()
    rule = larger.data.resize
    data = dataclasses.replace(config.data, resize=rule, canvases=nlvr2_r50.canvases_of_pairs(rule))
    return dataclasses.replace(config, model=larger.model, data=data, init=larger.init)
