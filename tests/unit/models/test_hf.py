"""Networks of transformers inside kd: the same function as theirs, with their hidden states as taps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from kdcli import catalog
from kdcli.core import random
from kdcli.core.network import Network
from kdcli.engine.teachers.inference import fold
from kdcli.errors import BadCheckpoint, Incompatible, KdError, NotFound, UsageError
from kdcli.jobs import describe_model, import_weights, load_network
from kdcli.jobs.build.networks import build_network
from kdcli.jobs.use.library_folder import read_library_folder, write_library_folder
from kdcli.models._headed import two_heads
from kdcli.models._hf_folder import read_pixels
from kdcli.models.hf import categories
from kdcli.results.preprocessing import Preprocessing
from tests.unit.models.tiny_hf import FAMILIES, SHAPE, save

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'kdcli[hf]'"
)


QUICK = ("vit", "swin", "efficientnet")


class Folders(dict[str, Path]):
    """A folder of each family, with seven classes, made when it is asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __missing__(self, family: str) -> Path:
        with random.seeded(1, family):
            save(self.root / family, family)
        self[family] = self.root / family
        return self[family]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Folders:
    return Folders(tmp_path_factory.mktemp("hf"))


@pytest.fixture
def vit(folders, tmp_path) -> Path:
    """A copy of one, to spoil."""
    return Path(shutil.copytree(folders["vit"], tmp_path / "vit"))


def build(folder: Path, classes: int = 7, shape=SHAPE, **options) -> Network:
    return build_network(
        f"hf/{folder}", num_classes=classes, input_shape=shape, options=options
    ).eval()


def pictures(count: int = 2, shape=SHAPE) -> torch.Tensor:
    pixels = count * shape[0] * shape[1] * shape[2]
    return random.uniform(3, torch.arange(pixels)).view(count, *shape) * 2 - 1


def change(folder: Path, file: str = "config.json", **values: Any) -> None:
    path = folder / file
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **values}))


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, marks=() if family in QUICK else pytest.mark.slow)
        for family in FAMILIES
    ],
)
def test_it_is_their_own_function_with_its_hidden_states_as_taps(folders, family):
    network = build(folders[family], weights="DEFAULT")
    assert network.new_head == ""
    net = transformers.AutoModelForImageClassification.from_pretrained(folders[family]).eval()
    x = pictures()
    with torch.no_grad():
        logits, taps = network(x, tuple(network.taps))
        own = net(pixel_values=x, output_hidden_states=True)
    torch.testing.assert_close(logits, own.logits)
    torch.testing.assert_close(network.head(taps["pooled"]), logits)
    stages = [tap for tap in network.taps if tap.startswith("stage")]
    assert len(stages) == 4
    for tap in stages:
        stride = network.taps[tap].stride
        assert taps[tap].shape == (2, network.taps[tap].channels, 32 // stride, 32 // stride)
    if family != "swin":  # which gives the states after it has made them smaller
        last = own.hidden_states[-1].flatten(2)
        rows = taps["stage4"].flatten(2)
        assert rows.equal(last if last.shape == rows.shape else last[:, -rows.shape[2] :].mT)
    strides = [network.taps[tap].stride for tap in stages]
    assert strides == {"vit": [8] * 4, "deit": [8] * 4, "swin": [2, 4, 8, 16]}.get(
        family, [4, 8, 16, 32]
    )


@pytest.mark.slow
@pytest.mark.parametrize("family", ["vit", "swin", "convnext"])
def test_taps_survive_compilers_and_teachers(folders, family):
    network = build(folders[family])
    x, taps = pictures(), ("stage2", "pooled")
    expected = network(x, taps)
    compiled = torch.compile(network.forward, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, taps), expected)
    torch.testing.assert_close(
        fold(network).network(x, taps).taps["stage2"], expected.taps["stage2"], rtol=1e-4, atol=1e-4
    )


def test_tokens_become_the_map_that_they_were(folders):
    network = build(folders["vit"])
    x = pictures()
    with torch.no_grad():
        tokens = network.net.model.vit(pixel_values=x, output_hidden_states=True).hidden_states[-1]
        found = network(x, ("stage4",)).taps["stage4"]
    torch.testing.assert_close(found, tokens[:, 1:].transpose(1, 2).reshape(2, 24, 4, 4))


def test_a_fresh_one_is_for_the_pictures_of_the_data_and_needs_no_folder_again(folders, tmp_path):
    folder = Path(shutil.copytree(folders["vit"], tmp_path / "vit"))
    network = build(folder, 3, (1, 16, 8), arguments={"num_hidden_layers": 2})
    assert list(network.taps) == ["stage1", "stage2", "block1", "block2", "pooled"]
    x = pictures(2, (1, 16, 8))
    assert network(x, ("stage1",)).taps["stage1"].shape == (2, 24, 2, 1)
    shutil.rmtree(folder)
    again = build_network(
        network.blueprint.architecture,
        num_classes=3,
        input_shape=(1, 16, 8),
        options=dict(network.blueprint.arguments),
    ).eval()
    again.load_state_dict(network.state_dict())
    torch.testing.assert_close(again(x), network(x))


HEADS = {
    "deit": ("DeiTForImageClassificationWithTeacher", FAMILIES["deit"]),
    "levit": (  # norms before its heads
        "LevitForImageClassificationWithTeacher",
        {
            "hidden_sizes": [8, 12, 16],
            "num_attention_heads": [1, 2, 2],
            "depths": [1, 1, 1],
            "key_dim": [4, 4, 4],
        },
    ),
}


@pytest.mark.parametrize("family", HEADS)
def test_two_heads_answer_their_mean_and_come_from_a_file(family, tmp_path):
    architecture, changes = HEADS[family]
    side = 64
    config = transformers.CONFIG_MAPPING[family](**changes, image_size=side, num_labels=7)
    config.architectures = [architecture]
    net = getattr(transformers, architecture)(config).eval()
    net.save_pretrained(tmp_path / "own")
    name, shape = f"hf/{tmp_path / 'own'}", (3, side, side)
    network = build_network(
        name, num_classes=7, input_shape=shape, options={"weights": "DEFAULT"}
    ).eval()
    assert "mean of their logits" in two_heads(network)[0]
    x = random.uniform(4, torch.arange(2 * 3 * side * side)).view(2, *shape)
    with torch.no_grad():
        expected = net(pixel_values=x).logits
        torch.testing.assert_close(network(x).logits, expected)
    how = Preprocessing(shape, side, (0.5,) * 3, (0.5,) * 3)
    write_library_folder(tmp_path / "back", network, tuple("abcdefg"), how)
    statistics = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    file = tmp_path / "own/model.safetensors"
    made = import_weights(file, model=name, runs=tmp_path, input_shape=shape, **statistics)
    with torch.no_grad():
        torch.testing.assert_close(read_library_folder(tmp_path / "back")(x), expected)
        torch.testing.assert_close(load_network(made.run)(x), expected)


def test_weights_of_other_classes_get_a_new_head(folders):
    network = build(folders["convnext"], classes=3, weights="DEFAULT")
    assert network.new_head == "7 classes"
    assert network(pictures()).logits.shape == (2, 3)
    tensors = load_file(folders["convnext"] / "model.safetensors")
    name = "convnext.embeddings.patch_embeddings.weight"
    torch.testing.assert_close(
        network.net.model.convnext.embeddings.patch_embeddings.weight, tensors[name]
    )


def test_weights_may_lie_in_several_files_or_elsewhere(vit, tmp_path):
    whole = build(vit, weights="DEFAULT")
    tensors = load_file(vit / "model.safetensors")
    elsewhere = tmp_path / "mine.safetensors"
    save_file(tensors, elsewhere)
    (vit / "model.safetensors").unlink()
    parts = [dict(list(tensors.items())[start::2]) for start in (0, 1)]
    table = {}
    for number, part in enumerate(parts, 1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file(part, vit / file)
        table |= dict.fromkeys(part, file)
    (vit / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    x = pictures()
    for weights in ("DEFAULT", str(elsewhere)):
        torch.testing.assert_close(build(vit, weights=weights)(x), whole(x))
    change(vit, "model.safetensors.index.json", weight_map={"a": "../mine.safetensors"})
    with pytest.raises(BadCheckpoint, match="which files hold the weights"):
        build(vit, weights="DEFAULT")


def test_classes_are_those_of_the_config(vit):
    assert categories(f"hf/{vit}", "DEFAULT") == tuple("0123456")
    names = dict(enumerate(["a", "b", "c", "d", "e", "f", "g"]))
    change(vit, id2label={str(10 - 4 - key): name for key, name in names.items()})
    assert categories(f"hf/{vit}", "DEFAULT") == tuple("gfedcba")
    assert describe_model(f"hf/{vit}").input_shape == SHAPE
    change(vit, id2label={"0": "a", "2": "b"})
    with pytest.raises(BadCheckpoint, match="id2label"):
        categories(f"hf/{vit}", "DEFAULT")


VIT = {
    "size": {"height": 32, "width": 32},
    "resample": 2,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}
CONVNEXT = {
    "size": {"shortest_edge": 28},
    "crop_pct": 0.875,
    "resample": 3,
    "image_mean": [0.4] * 3,
    "image_std": [0.2] * 3,
}
CUT = {
    "size": {"shortest_edge": 40},
    "do_center_crop": True,
    "crop_size": {"height": 32, "width": 32},
}
OFFSET = {
    "size": 32,
    "rescale_factor": 1 / 127.5,
    "rescale_offset": True,
    "include_top": True,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}


@pytest.mark.parametrize(
    ("said", "size", "resize", "interpolation", "mean", "std"),
    [
        (VIT, (32, 32), (32, 32), "bilinear", 0.5, 0.5),
        (CONVNEXT, (28, 28), 32, "bicubic", 0.4, 0.2),
        (CUT, (32, 32), 40, None, 0.0, 1.0),
        # (2x - 1 - 0.5) / 0.5 / 0.5
        (OFFSET, (32, 32), 32, None, 0.75, 0.125),
        ({**VIT, "do_normalize": False}, (32, 32), (32, 32), "bilinear", 0.0, 1.0),
    ],
)
def test_its_pixels_are_those_of_its_image_processor(
    tmp_path, said, size, resize, interpolation, mean, std
):
    change(tmp_path, "preprocessor_config.json", **said)
    found = read_pixels(tmp_path)
    assert (found.size, found.resize, found.interpolation) == (size, resize, interpolation)
    assert found.mean == pytest.approx((mean,) * 3)
    assert found.std == pytest.approx((std,) * 3)


def test_a_network_with_weights_says_what_pixels_it_takes(vit):
    change(vit, "preprocessor_config.json", **CONVNEXT)
    network = build(vit, weights="DEFAULT")
    assert (network.input_size, network.input_resize) == ((28, 28), 32)
    assert (network.input_interpolation, network.input_mean) == ("bicubic", (0.4,) * 3)
    assert build(vit).input_mean is None


def test_what_is_wrong_with_a_folder_is_said(vit, tmp_path):
    def refused(kind: type[KdError], words: str, **options: Any) -> KdError:
        with pytest.raises(kind, match=words) as caught:
            build(vit, **options)
        return caught.value

    change(vit, "preprocessor_config.json", do_flip_channel_order=True)
    refused(Incompatible, "blue, green, red", weights="DEFAULT")
    change(
        vit,
        "preprocessor_config.json",
        do_flip_channel_order=False,
        size={"height": -1, "width": 4},
    )
    refused(BadCheckpoint, "size is no number of pixels", weights="DEFAULT")
    (vit / "preprocessor_config.json").unlink()
    refused(UsageError, "'num_hiden_layers'", arguments={"num_hiden_layers": 2})
    refused(Incompatible, "cannot take pictures of 16x16", weights="DEFAULT", shape=(3, 16, 16))
    tensors = load_file(vit / "model.safetensors")
    tensors["extra"] = torch.zeros(1)
    del tensors["vit.embeddings.cls_token"]
    save_file(tensors, vit / "model.safetensors")
    found = refused(Incompatible, "1 are left over", weights="DEFAULT")
    assert "1 are missing (vit.embeddings.cls_token)" in found.message
    (vit / "model.safetensors").rename(vit / "pytorch_model.bin")
    refused(NotFound, "as a pickle alone", weights="DEFAULT")
    change(vit, model_type="bert")
    refused(Incompatible, "'bert', which is no image classifier")
    change(vit, auto_map={"AutoModelForImageClassification": "mine.Net"}, model_type="mine")
    refused(Incompatible, "code of its own folder, which kd does not run")
    (vit / "config.json").write_text(json.dumps({"architecture": "resnet18"}))
    assert "timm/resnet18" in str(refused(Incompatible, "a network of timm").hint)
    (vit / "config.json").write_text("{")
    refused(BadCheckpoint, "cannot be read as JSON")
    (vit / "config.json").unlink()
    refused(NotFound, "no config.json")


def test_what_a_config_says_of_code_and_files_is_left_out(vit):
    marks = {
        "auto_map": {"a": "b.C"},
        "_attn_implementation": "org/kernel",
        "quantization_config": {"a": 1},
    }
    change(vit, **marks)
    network = build(vit)
    assert not marks.keys() & network.blueprint.arguments["config"].keys()
    assert "id2label" not in network.blueprint.arguments["config"]


@pytest.mark.parametrize("name", ["hf/./nowhere", "hf//nowhere", "hf/", "hf/a/b/c", "hf/../x"])
def test_a_name_that_is_no_folder_is_refused(name, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()  # so that what stands beside it is known, too
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(NotFound, match="no such folder"):
        build_network(name, num_classes=3, input_shape=SHAPE)


def test_a_hub_id_is_looked_up_in_the_cache_and_fetched_only_when_asked(
    folders, tmp_path, monkeypatch
):
    hub = pytest.importorskip("huggingface_hub")
    with pytest.raises(NotFound, match="in its cache") as caught:
        build_network("hf/org/vit", num_classes=3, input_shape=SHAPE)
    assert caught.value.hint == "kd models hf/org/vit --download fetches it"
    asked: list[Any] = []

    def fetched(repository: str, *, allow_patterns: list[str]) -> str:
        asked.append((repository, allow_patterns))
        return str(folders["vit"])

    monkeypatch.setattr(hub, "snapshot_download", fetched)
    monkeypatch.setattr(
        hub, "try_to_load_from_cache", lambda repository, file: str(folders["vit"] / file)
    )
    module = catalog.load(catalog.entry("model", "hf/*"))
    assert module.download("hf/org/vit") == folders["vit"]
    [(repository, patterns)] = asked
    assert repository == "org/vit"
    assert not any(pattern.endswith((".bin", ".py", ".pt")) for pattern in patterns)
    assert build_network("hf/org/vit", num_classes=3, input_shape=SHAPE).taps

    def failing(*_: Any, **__: Any) -> str:
        raise OSError("401 Client Error.\nmore")

    def offline(*_: Any, **__: Any) -> str:
        raise hub.errors.LocalEntryNotFoundError("Got: ConnectError: Name or service not known")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    with pytest.raises(NotFound, match="org/none cannot be fetched: nothing leads from here"):
        module.download("hf/org/none")
    monkeypatch.setattr(hub, "snapshot_download", failing)
    with pytest.raises(NotFound, match=r"org/none cannot be fetched: OSError: 401 Client Error\.$"):
        module.download("hf/org/none")


def test_without_transformers_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(UsageError, match="transformers") as caught:
        build_network("hf/./x", num_classes=3, input_shape=SHAPE)
    assert caught.value.hint == "pip install 'kdcli[hf]'"
