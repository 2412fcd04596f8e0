"""Networks of transformers and timm as folders that these load."""

from __future__ import annotations

import json

import pytest
import torch

from kdcli.core import random
from kdcli.errors import Incompatible, UsageError
from kdcli.jobs import build_network, export
from kdcli.jobs.use.library_folder import read_library_folder, write_library_folder
from kdcli.models._hf_folder import class_names, read_config, read_pixels
from kdcli.results.preprocessing import Preprocessing
from tests.unit.models import tiny_hf, tiny_timm

SHAPE = (3, 32, 32)
HOW = Preprocessing(SHAPE, 36, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
NAMES = tuple("abcdefg")


@pytest.mark.parametrize(
    "name",
    [
        "hf/vit",
        "timm/vit_tiny_patch16_224",
        "timm/test_resnet",
        pytest.param("hf/swin", marks=pytest.mark.slow),
        pytest.param("hf/efficientnet", marks=pytest.mark.slow),
        pytest.param("timm/mobilenetv4_conv_small_035", marks=pytest.mark.slow),
    ],
)
def test_its_own_library_loads_it_and_answers_alike(name, tmp_path):
    library, _, family = name.partition("/")
    pytest.importorskip({"hf": "transformers"}.get(library, library))
    options = {}
    if library == "hf":
        tiny_hf.save(tmp_path / "made", family)
        name = f"hf/{tmp_path / 'made'}"
    else:
        options = {"arguments": tiny_timm.FAMILIES[name]}
    network = build_network(name, num_classes=7, input_shape=SHAPE, options=options).eval()
    folder = tmp_path / "out"
    write_library_folder(folder, network, NAMES, HOW)
    x = random.uniform(3, torch.arange(2 * 3 * 32 * 32)).view(2, *SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(read_library_folder(folder)(x), network(x).logits)
    if library == "hf":
        assert class_names(read_config(folder), folder) == NAMES
        pixels = read_pixels(folder)
        assert (pixels.size, pixels.resize, pixels.interpolation) == ((32, 32), 36, "bilinear")
        assert pixels.mean == pytest.approx(HOW.mean)
        assert pixels.std == pytest.approx(HOW.std)
    else:
        config = json.loads((folder / "config.json").read_text())
        assert config["label_names"] == list(NAMES)
        assert config["pretrained_cfg"]["crop_pct"] == pytest.approx(32 / 36)
        assert config["pretrained_cfg"]["mean"] == list(HOW.mean)
    assert not list(folder.glob("*.bin"))


def test_networks_of_kd_are_refused_with_what_works(trained, tmp_path):
    with pytest.raises(Incompatible, match="mlp is no network of transformers or timm") as caught:
        export(trained.out / "kd", format="hf", out=tmp_path / "x")
    assert caught.value.hint == "--format onnx, pytorch, pt2 or torchscript"
    with pytest.raises(UsageError):
        export(trained.out / "kd", format="hf", out=tmp_path / "x", int8=True)
    assert list(tmp_path.iterdir()) == []
