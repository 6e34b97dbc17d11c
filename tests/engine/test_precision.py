"""Which precision is meant by which name, on which device."""

from __future__ import annotations

import pytest
import torch

from scripts.common.problems import UserError
from scripts.engine.precision import PRECISIONS, precision, settled

GPU = torch.device("cuda", 0)


@pytest.mark.parametrize(("capability", "name"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_auto_is_bf16_on_a_gpu_that_computes_in_it(monkeypatch, capability, name):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert settled("auto", GPU) == name


def test_auto_is_fp32_on_a_processor():
    assert settled("auto", torch.device("cpu")) == "fp32"


@pytest.mark.parametrize("name", PRECISIONS)
def test_what_is_named_is_meant(name):
    assert settled(name, GPU) == name


@pytest.mark.parametrize("look_up", [precision, lambda amp: settled(amp, GPU)])
def test_an_unknown_name_is_refused(look_up):
    with pytest.raises(UserError, match="int8"):
        look_up("int8")
