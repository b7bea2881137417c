import pytest

from jaxvid.data.config import DataConfig


@pytest.fixture
def tiny(cache_dir) -> DataConfig:
    """20 + 10 embedded videos of 12 frames, 32 pixels."""
    return DataConfig(
        embedded_train=20, embedded_test=10, embedded_size=32, embedded_frames=12,
        frames=4, stride=2, size=16, threads=2, cache_dir=str(cache_dir),
    )  # fmt: skip
