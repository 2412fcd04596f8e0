"""What precision is chosen where nobody says: by the device, and on CPUs without AMX by the network
too.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdcli.engine import hardware
from kdcli.engine.hardware import choose_precision
from kdcli.engine.runtime import Runtime
from kdcli.jobs import build_network
from kdcli.jobs.build.job import build_job
from kdcli.models.cost import density
from kdcli.recipe.resolve import resolve


@pytest.fixture(params=["AMX", "AVX512-BF16", None])
def unit(request, monkeypatch):
    monkeypatch.setattr(hardware, "cpu_unit", lambda: request.param)
    return request.param


def test_bf16_where_the_cpu_computes_it(unit):
    choice = choose_precision("auto", torch.device("cpu"))
    assert choice.value == ("bf16" if unit else "fp32")
    assert unit is None or unit in choice.reason
    assert choose_precision("fp16", torch.device("cpu")).value == "fp16"


@pytest.mark.parametrize("value", [30.0, 99.9, 100.0, 500.0])
@pytest.mark.parametrize("wanted", ["auto", "fp32", "bf16"])
def test_a_network_that_computes_little_stays_in_float32_without_amx(unit, wanted, value):
    runtime = Runtime("cpu", precision=wanted)
    before = runtime.precision_choice
    runtime.suit(value)
    if wanted == "auto" and unit == "AVX512-BF16" and value < 100:
        assert (runtime.precision_choice.value, runtime.dtype) == ("fp32", torch.float32)
        assert f"{value:.0f} multiply-adds a value" in runtime.precision_choice.reason
        assert runtime.teacher_choice.value == "bf16"  # its own choice
    else:
        assert runtime.precision_choice == before


@pytest.mark.parametrize(
    ("name", "shape", "least", "most"),
    [("mobilenet_v2", (3, 32, 32), 20, 40), ("resnet20", (3, 32, 32), 190, 215)],
)
def test_density_of_known_networks(name, shape, least, most):
    network = build_network(name, num_classes=10, input_shape=shape).train()
    statistics = {key: value.clone() for key, value in network.named_buffers()}
    assert least < density(network, torch.zeros(1, *shape)) < most
    assert network.training
    assert all(torch.equal(statistics[key], value) for key, value in network.named_buffers())


def test_a_job_weighs_its_network(monkeypatch, tmp_path):
    monkeypatch.setattr(hardware, "cpu_unit", lambda: "AVX512-BF16")
    pictures, labels = np.zeros((40, 32, 32, 3), np.uint8), np.arange(40) % 2
    np.savez(
        tmp_path / "grey.npz", x_train=pictures, y_train=labels, x_test=pictures, y_test=labels
    )
    chosen = {}
    for name in ("mobilenet_v2", "resnet8"):
        values = {"model.name": name, "data.name": "npz", "data.path": str(tmp_path / "grey.npz")}
        job = build_job(resolve("train-teacher", values=values).recipe, lambda _section: tmp_path)
        chosen[name] = job.runtime.precision_choice.value
    assert chosen == {"mobilenet_v2": "fp32", "resnet8": "bf16"}
