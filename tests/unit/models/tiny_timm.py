"""Networks of timm's families, as small as their constructors make them, for pictures of 32x32."""

from __future__ import annotations

from typing import Any

SHAPE = (3, 32, 32)
FAMILIES: dict[str, dict[str, Any]] = {
    "timm/vit_tiny_patch16_224": {"depth": 5, "embed_dim": 24, "num_heads": 3, "patch_size": 8},
    "timm/deit_tiny_patch16_224": {"depth": 4, "embed_dim": 12, "num_heads": 3, "patch_size": 8},
    "timm/swin_tiny_patch4_window7_224": {
        "depths": [1, 1, 1, 2],
        "embed_dim": 8,
        "num_heads": [1, 1, 2, 2],
        "window_size": 4,
    },
    "timm/convnext_atto": {"depths": [1, 1, 1, 1], "dims": [8, 8, 12, 16]},
    "timm/efficientnet_lite0": {},
    "timm/mobilenetv3_small_050": {},
    "timm/mobilenetv4_conv_small_035": {},
    "timm/regnetx_002": {},
    "timm/test_resnet": {},
}
