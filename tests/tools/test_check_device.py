"""Steps on two devices from one state."""

import jax
import numpy as np
import pytest

from jaxvid.model import read_config
from jaxvid.tools import check_device


def test_two_equal_devices_agree_and_another_state_does_not():
    config = read_config("configs/videomae_ssv2.py:smoke")
    found = check_device.compare(config, jax.devices()[1], jax.devices()[0], steps=2)
    assert len(found["losses"]) == len(found["reference"]) == 2
    assert found["loss_gap"] < 1e-6 and found["param_gap"] < 1e-3
    assert found["losses"][0] != found["losses"][1]

    first, _, losses = check_device.run_steps(config, jax.devices()[0], 1)
    moved = first.replace(params=jax.tree.map(lambda x: x + np.float32(0.05), first.params))
    _, _, others = check_device.run_steps(config, jax.devices()[0], 1, moved)
    assert abs(others[0] - losses[0]) > 1e-3


def test_without_an_accelerator_it_says_so(capsys):
    with pytest.raises(SystemExit):
        check_device.main([])
    assert "no accelerator here" in capsys.readouterr().err
