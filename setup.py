"""Packaging of jaxvid; the configs are run from a checkout."""

from setuptools import find_packages, setup

TEST = ["pytest", "pytest-timeout", "pytest-xdist"]
TEST += ["apache-beam", "ruff", "pillow", "nbclient", "nbformat", "ipykernel"]
REQUIRES = [
    "absl-py",
    "array-record>=0.8.6",  # reads buckets
    "av>=18",
    "chex>=0.1.91",
    "clu>=0.0.12",
    "einops",
    "etils[epath]",
    "flatbuffers",  # jax.export
    "flax>=0.12.7",
    "fsspec",
    "grain>=0.2.16",
    "matplotlib",
    "ml-collections>=1.1",
    "numpy>=2",
    "opencv-contrib-python-headless",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.11.40",
    "pyarrow",
    "rich",
    "safetensors",
    "scipy",
    "tensorboardX",
    "tensorflow-datasets",
]

setup(
    name="jaxvid",
    version="0.1.0",
    description="Self-supervised video pretraining in JAX: masked autoencoders with token samplers",
    packages=find_packages(include=["jaxvid", "jaxvid.*"]),
    python_requires=">=3.11",
    install_requires=REQUIRES,
    extras_require={
        "beam": ["apache-beam"],  # pack_videos --runner
        "cpu": ["jax>=0.10.0"],
        "cuda": ["jax[cuda13]>=0.10.0"],
        "tpu": ["jax[tpu]>=0.10.0", "gcsfs"],  # a pod's hosts share no disk but a bucket
        "test": TEST,
        "torch": ["torch"],
    },
    entry_points={"console_scripts": ["jaxvid = jaxvid.main:run"]},
)
