"""Networks of transformers' families, as small as their configs make them, for pictures of 32x32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SHAPE = (3, 32, 32)
_VIT = {"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 48, "patch_size": 8}
FAMILIES: dict[str, dict[str, Any]] = {
    "vit": {**_VIT, "num_hidden_layers": 5},
    "deit": {**_VIT, "num_hidden_layers": 4},
    "swin": {
        "embed_dim": 8,
        "depths": [1, 1, 1, 2],
        "num_heads": [1, 1, 2, 2],
        "window_size": 2,
        "patch_size": 2,
    },
    "convnext": {"hidden_sizes": [8, 8, 12, 16], "depths": [1, 1, 1, 1]},
    "efficientnet": {"width_coefficient": 0.2, "depth_coefficient": 0.2, "hidden_dim": 256},
    "mobilenet_v2": {"depth_multiplier": 0.25},
    "regnet": {
        "embedding_size": 8,
        "hidden_sizes": [8, 16, 24, 32],
        "depths": [1, 1, 2, 1],
        "groups_width": 8,
    },
    "resnet": {
        "embedding_size": 8,
        "hidden_sizes": [8, 16, 24, 32],
        "depths": [1, 1, 1, 1],
        "layer_type": "basic",
    },
}


def save(folder: Path, family: str, classes: int = 7, **changes: Any) -> Any:
    """A network with random weights in a folder, as transformers saves it."""
    import transformers

    config = transformers.CONFIG_MAPPING[family](
        **{"image_size": 32, **FAMILIES[family], **changes}, num_labels=classes
    )
    config.architectures = ["DeiTForImageClassification"] if family == "deit" else None
    transformers.utils.logging.disable_progress_bar()
    net = transformers.AutoModelForImageClassification.from_config(config).eval()
    net.save_pretrained(folder)
    return net
