"""The paper's ImageBERT: BERT-base over 100 regions, pre-trained on its own web data, then on captions from the web.

    python -m data_pipelines.prepare image_text --source_dir=/collected --regions=/regions --data_dir=data
    python -m data_pipelines.prepare conceptual_captions --source_dir=/cc --regions=/regions --data_dir=data
    python -m data_pipelines.prepare sbu --source_dir=/sbu --regions=/regions --data_dir=data
    python -m experiments.pretrain --config=experiments/configs/imagebert_base.py --workdir=runs/imagebert

The paper's first set, LAIT, is not public; docs/collect.md makes one like it. It trained on four V100. Only a
few steps of four pairs were run at full size, on a CPU (docs/fidelity.md lists what the paper leaves open).
Expected, zero-shot on Flickr30k: image retrieval R@1 54.3, text retrieval 70.7.
"""

from data_pipelines.config import DataConfig, SourceConfig
from experiments.run.config import CheckpointConfig, EvaluationConfig, RunConfig, StageConfig
from pixelbert_jax.config import imagebert_base
from pixelbert_jax.tasks.regions_pretraining import RegionsPretrainingConfig
from pixelbert_jax.training.optimizer import AdamWConfig, OptimizerConfig, ScheduleConfig
from pixelbert_jax.weights.initialize import InitConfig


def get_config() -> RunConfig:
    """Batches of 48 pairs, 17 epochs per stage, Adam at 1e-4."""
    captions = (SourceConfig("conceptual_captions", "train"), SourceConfig("sbu", "train"))
    return RunConfig(
        model=imagebert_base(),
        data=DataConfig(
            train=(),
            eval=(SourceConfig("conceptual_captions", "validation"),),
            batch_images=48,
            texts_per_image=1,
            max_text_length=44,
            replaced_images=0.5,
            regions=100,
        ),
        init=InitConfig(text="google-bert/bert-base-uncased"),
        # The sum over 2,048 numbers, which the paper writes, would leave little of the other losses.
        task=RegionsPretrainingConfig(feature_error="mean"),
        optimizer=OptimizerConfig(
            transformer=AdamWConfig(learning_rate=1e-4),
            schedule=ScheduleConfig(kind="linear", warmup_steps=1000, warmup_start=0.0),
            clip_norm=1.0,
        ),
        stages=(
            StageConfig(train=(SourceConfig("image_text", "train"),), epochs=17),
            StageConfig(train=captions, epochs=17),
        ),
        evaluation=EvaluationConfig(every=10_000, images=1008),
        checkpoint=CheckpointConfig(every=5_000),
    )
