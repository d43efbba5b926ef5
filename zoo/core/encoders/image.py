"""EfficientNet-Lite0 as the eye: a picture becomes a grid of pooled features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from zoo.core.encoders.base import Encoder, with_times

SIZE = 224


def load_efficientnet_lite0(folder: Path) -> nn.Module:
    """timm's `tf_efficientnet_lite0` without its classifier, with the published weights.

    The file names its layers otherwise than timm does, but lists them in the same order; shapes are compared.
    """
    files = sorted(folder.glob("*.pth"))
    if len(files) != 1:
        raise ValueError(f"{folder}: expected one .pth file, found {len(files)}")
    published = torch.load(files[0], map_location="cpu", weights_only=True)
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    own = model.state_dict()
    if len(own) != len(published):
        raise ValueError(f"{files[0]}: {len(published)} tensors, the model has {len(own)}")
    renamed = {}
    for (name, mine), (other, theirs) in zip(own.items(), published.items()):
        if mine.shape != theirs.shape:
            raise ValueError(f"{files[0]}: {other} has shape {tuple(theirs.shape)}, {name} {tuple(mine.shape)}")
        renamed[name] = theirs
    model.load_state_dict(renamed)
    model.reset_classifier(0, "")
    return fold_norms(model.eval())


def fold_norms(module: nn.Module) -> nn.Module:
    """Folds timm's batch norms into the convolutions before them, in place: for inference alone, 1.7 times as fast.

    The activation of a norm takes its place. A norm that follows no convolution stays.
    """
    before: tuple[str, nn.Module] | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, BatchNormAct2d) and before is not None and isinstance(before[1], nn.Conv2d):
            setattr(module, before[0], fuse_conv_bn_eval(before[1], child.eval()))
            setattr(module, name, child.act)
        else:
            fold_norms(child)
        before = (name, child)
    return module


class ImageEncoder(Encoder):
    """Raw input: uint8 [3, 224, 224]; features: a `grid` × `grid` average pooling of the last map, row by row."""

    def __init__(self, trunk: nn.Module, dim: int = 1280, grid: int = 2, size: int = SIZE):
        super().__init__()
        # Depthwise convolutions run nearly twice as fast on a CPU with channels last.
        self.trunk = trunk.to(memory_format=torch.channels_last)
        self.dim, self.grid, self.size = dim, grid, size
        self.setting = f"image/{grid}/{size}/bicubic/half"

    def load(self, image: Image.Image) -> Tensor:
        """Resizes to a square: a crop could hide what the policy is about."""
        image = image.resize((self.size, self.size), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.asarray(image, dtype=np.uint8).copy()).permute(2, 0, 1)  # [3, size, size]

    def num_tokens(self, raw: Tensor) -> int:
        return self.grid**2

    @torch.no_grad()
    def encode(self, raws: Sequence[Tensor]) -> list[Tensor]:
        device = next(self.trunk.parameters()).device
        out: list[Tensor] = []
        for start in range(0, len(raws), 16):
            pixels = torch.stack(list(raws[start : start + 16])).to(device).float()  # [b, 3, s, s]
            pixels = ((pixels / 255 - 0.5) / 0.5).contiguous(memory_format=torch.channels_last)
            maps = self.trunk(pixels)  # [b, d, h, w]
            pooled = nn.functional.adaptive_avg_pool2d(maps, self.grid).flatten(2).transpose(1, 2)  # [b, grid², d]
            out += [with_times(p, torch.zeros(len(p))) for p in pooled]
        return out
