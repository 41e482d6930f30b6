"""ST-LPIPS: a learned distance between images that forgives shifts too small to see.

LPIPS compares deep features of two images, position by position, so a shift by one pixel already
counts. Ghildyal and Liu, "Shift-tolerant Perceptual Similarity Metric" (arXiv 2207.13686), keep the
AlexNet trunk but let every layer that skips positions run at stride 1 and blur before it skips,
with reflected borders. Trunk and heads were trained from scratch for this, so its numbers are not
LPIPS numbers.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vidmarl.errors import CheckpointError
from vidmarl.utils.files import load_tensors

WEIGHTS = "stlpips_alex_shift_tolerant.pth"
SMALLEST = 21
"""Frames need this many pixels on their short side, for the trunk's borders to be reflected."""

_CONVS = (
    "net.slice1.0",
    "net.slice2.5",
    "net.slice3.9",
    "net.slice4.11",
    "net.slice5.13",
)  # names in the released file


class BlurPool(nn.Module):
    """Every second position of the binomially blurred features (1 2 1 in both directions)."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("kernel", torch.outer(row, row)[None, None], persistent=False)

    def forward(self, features: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
        channels = features.shape[1]
        padded = F.pad(features, (2, 2, 2, 2), mode="reflect")
        return F.conv2d(padded, self.kernel.expand(channels, 1, 3, 3), stride=2, groups=channels)


class STLPIPS(nn.Module):
    """The distance of pairs of images; 0 for equal ones, larger the more a person would see.

    Random until weights are loaded: use `STLPIPS.from_file`.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Statistics of ImageNet for images in [-1, 1].
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1))
        self.blur = BlurPool()
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(3, 64, 11, padding=2),
                nn.Conv2d(64, 192, 5, padding=2),
                nn.Conv2d(192, 384, 3, padding=1),
                nn.Conv2d(384, 256, 3, padding=1),
                nn.Conv2d(256, 256, 3, padding=1),
            ]
        )
        self.heads = nn.ModuleList([nn.Conv2d(width, 1, 1, bias=False) for width in (64, 192, 384, 256, 256)])

    @classmethod
    def from_file(cls, path: str | Path) -> STLPIPS:
        """The network with the released weights, in eval mode.

        Raises:
            FileNotFoundError: there is no such file.
            CheckpointError: the file is damaged, or holds something else.
        """
        released = load_tensors(path, "Loading ST-LPIPS")
        network = cls()
        try:
            state = {
                "shift": released["scaling_layer.shift"][0],
                "scale": released["scaling_layer.scale"][0],
                **{f"convs.{i}.{p}": released[f"{k}.{p}"] for i, k in enumerate(_CONVS) for p in ("weight", "bias")},
                **{f"heads.{i}.weight": released[f"lin{i}.model.1.weight"] for i in range(5)},
            }
            network.load_state_dict(state)
        except (KeyError, RuntimeError, TypeError) as error:
            raise CheckpointError(
                f"Loading ST-LPIPS from {path}: expected the released AlexNet weights of the shift-tolerant variant,"
                f" got a file that does not fit ({error})."
            ) from error
        return network.eval().requires_grad_(False)

    def features(self, images: Float[Tensor, "n 3 h w"]) -> list[Float[Tensor, "n c h2 w2"]]:
        """The five layers' features, each position's channels scaled to unit length.

        Args:
            images: in [0, 1].
        """
        x = (images * 2 - 1 - self.shift) / self.scale
        conv1, conv2, conv3, conv4, conv5 = self.convs
        layers = [F.relu(self.blur(conv1(x)))]
        layers.append(F.relu(conv2(self.blur(F.max_pool2d(layers[-1], 3, 1)))))
        layers.append(F.relu(conv3(self.blur(F.max_pool2d(layers[-1], 3, 1)))))
        layers.append(F.relu(conv4(layers[-1])))
        layers.append(F.relu(conv5(layers[-1])))
        return [layer / (layer.norm(dim=1, keepdim=True) + 1e-10) for layer in layers]

    def forward(self, first: Float[Tensor, "n 3 h w"], second: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
        """The distance of each pair.

        Args:
            first: images in [0, 1], at least `SMALLEST` px on the short side.
            second: images in [0, 1].
        """
        distances = [
            head((a - b).square()).mean((1, 2, 3))
            for head, a, b in zip(self.heads, self.features(first), self.features(second), strict=True)
        ]
        return torch.stack(distances).sum(0)
