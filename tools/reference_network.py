"""The 3D-2D CE-Net in PyTorch, written to be read: the reference that Coronet's numbers are checked against.

Frames [B, C, 2N+1, H, W] go in, vessel logits [B, 1, H, W] of the middle frame come out. The network is that of
Wang, Liang et al., "Coronary artery segmentation in angiographic videos utilizing spatial-temporal information",
BMC Med Imaging 20:110 (2020). Parameter names are those of Coronet's weights files: `state_dict()` keys and tensor
names in a safetensors file are the same words.

Nothing here is fast or general on purpose. `tools/golden.py` turns it into golden cases, `tools/compare_cpu.py`
exports it to ONNX for the speed comparison.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RMP_POOLS = (2, 3, 5, 6)
ENCODER_BLOCKS = (3, 4, 6, 3)  # ResNet-34


@dataclass(frozen=True)
class Configuration:
    """What a weights file's header says about its network."""

    width: int = 64
    stem: str = "half"
    neighbours: int = 2
    in_channels: int = 1

    def __post_init__(self) -> None:
        if self.width < 4 or self.width % 4:
            raise ValueError(f"the width must be a positive multiple of 4, got {self.width}")
        if self.stem not in ("half", "quarter"):
            raise ValueError(f"the stem is `half` or `quarter`, got `{self.stem}`")
        if not 0 <= self.neighbours <= 3:
            raise ValueError(f"the network takes 0 to 3 neighbours on each side, got {self.neighbours}")
        if self.in_channels not in (1, 3):
            raise ValueError(f"a frame has 1 or 3 channels, got {self.in_channels}")

    @property
    def frames(self) -> int:
        """Frames in one window."""
        return 2 * self.neighbours + 1

    @property
    def reduction(self) -> int:
        """How many times smaller than the input the bottleneck is."""
        return 16 if self.stem == "half" else 32

    def metadata(self) -> dict[str, str]:
        """The header of a weights file of this network."""
        return {
            "coronet.architecture": "cenet3d",
            "coronet.width": str(self.width),
            "coronet.stem": self.stem,
            "coronet.neighbours": str(self.neighbours),
            "coronet.in_channels": str(self.in_channels),
        }

    @staticmethod
    def of_weights(shapes: Mapping[str, tuple[int, ...]]) -> Configuration:
        """The configuration that tensors of these shapes belong to."""
        _, in_channels, frames, _, _ = shapes["temporal.weight"]
        width, _, kernel, _ = shapes["fuse.weight"]
        return Configuration(width, "half" if kernel == 3 else "quarter", (frames - 1) // 2, in_channels)


def instance_norm(channels: int) -> nn.InstanceNorm2d:
    """Biased variance of each map of each sample, in training and inference alike; no running statistics."""
    return nn.InstanceNorm2d(channels, eps=1e-5, affine=True, track_running_stats=False)


class BasicBlock(nn.Module):
    """ResNet's two 3x3 convolutions beside a shortcut, which is a 1x1 projection where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = instance_norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = instance_norm(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(projection, instance_norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + shortcut)


def encoder(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    """One ResNet layer; only its first block changes the shape."""
    first = BasicBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))


class DenseAtrous(nn.Module):
    """DAC: four branches of growing receptive field built from four shared convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dilate1 = nn.Conv2d(channels, channels, 3, padding=1, dilation=1)
        self.dilate2 = nn.Conv2d(channels, channels, 3, padding=3, dilation=3)
        self.dilate3 = nn.Conv2d(channels, channels, 3, padding=5, dilation=5)
        self.conv1x1 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.dilate1(x)
        ba = self.dilate2(a)
        branch1 = F.relu(a)
        branch2 = F.relu(self.conv1x1(self.dilate2(x)))
        branch3 = F.relu(self.conv1x1(ba))
        branch4 = F.relu(self.conv1x1(self.dilate3(ba)))
        return x + branch1 + branch2 + branch3 + branch4


class ResidualPooling(nn.Module):
    """RMP: four pooled one-channel summaries of the maps, put in front of the maps themselves."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        maps = []
        for k in RMP_POOLS:
            pooled = self.conv(F.max_pool2d(x, k, stride=k))
            maps.append(F.interpolate(pooled, size=(height, width), mode="bilinear", align_corners=False))
        return torch.cat([*maps, x], dim=1)


class Decoder(nn.Module):
    """Squeeze to a quarter of the channels, double the size, expand."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        middle = inputs // 4
        self.conv1 = nn.Conv2d(inputs, middle, 1)
        self.norm1 = instance_norm(middle)
        self.deconv2 = nn.ConvTranspose2d(middle, middle, 3, stride=2, padding=1, output_padding=1)
        self.norm2 = instance_norm(middle)
        self.conv3 = nn.Conv2d(middle, outputs, 1)
        self.norm3 = instance_norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.deconv2(x)))
        return F.relu(self.norm3(self.conv3(x)))


class Head(nn.Module):
    """From decoder maps to logits; after stem `quarter` its first layer doubles the size once more."""

    def __init__(self, channels: int, stem: str) -> None:
        super().__init__()
        half = channels // 2
        if stem == "half":
            self.conv1 = nn.Conv2d(channels, half, 3, padding=1)
        else:
            self.conv1 = nn.ConvTranspose2d(channels, half, 4, stride=2, padding=1)
        self.conv2 = nn.Conv2d(half, half, 3, padding=1)
        self.conv3 = nn.Conv2d(half, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))


class CeNet3d(nn.Module):
    """The whole network: a temporal convolution in front of a 2D CE-Net."""

    def __init__(self, configuration: Configuration) -> None:
        super().__init__()
        self.configuration = configuration
        w, c = configuration.width, configuration
        # No padding in time: 2N+1 frames become one set of maps.
        self.temporal = nn.Conv3d(c.in_channels, w // 4, (c.frames, 3, 3), padding=(0, 1, 1))
        if c.stem == "half":
            self.fuse = nn.Conv2d(w // 4, w, 3, padding=1, bias=False)
            self.pool = nn.MaxPool2d(2, stride=2)
        else:
            self.fuse = nn.Conv2d(w // 4, w, 7, stride=2, padding=3, bias=False)
            self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.fuse_norm = instance_norm(w)
        self.encoder1 = encoder(w, w, ENCODER_BLOCKS[0], stride=1)
        self.encoder2 = encoder(w, 2 * w, ENCODER_BLOCKS[1], stride=2)
        self.encoder3 = encoder(2 * w, 4 * w, ENCODER_BLOCKS[2], stride=2)
        self.encoder4 = encoder(4 * w, 8 * w, ENCODER_BLOCKS[3], stride=2)
        self.dac = DenseAtrous(8 * w)
        self.rmp = ResidualPooling(8 * w)
        self.decoder4 = Decoder(8 * w + len(RMP_POOLS), 4 * w)
        self.decoder3 = Decoder(4 * w, 2 * w)
        self.decoder2 = Decoder(2 * w, w)
        self.decoder1 = Decoder(w, w)
        self.head = Head(w, c.stem)

    def walk(self, frames: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Every intermediate result that has a name, in the order of computation; keeps only what is still needed."""
        self.check_size(*frames.shape[-2:])
        x = F.relu(self.temporal(frames)).squeeze(2)
        yield "temporal", x
        x = self.pool(F.relu(self.fuse_norm(self.fuse(x))))
        yield "stem", x
        skips = []
        for name in ("encoder1", "encoder2", "encoder3", "encoder4"):
            x = getattr(self, name)(x)
            yield name, x
            skips.append(x)
        skips.pop()
        for name in ("dac", "rmp"):
            x = getattr(self, name)(x)
            yield name, x
        for name in ("decoder4", "decoder3", "decoder2", "decoder1"):
            x = getattr(self, name)(x)
            if skips:
                x = x + skips.pop()
            yield name, x
        x = self.head(x)
        yield "logits", x
        yield "probability", torch.sigmoid(x)

    def stages(self, frames: Tensor) -> dict[str, Tensor]:
        """Every intermediate result that has a name."""
        return dict(self.walk(frames))

    def outputs(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and probability."""
        logits = probability = frames
        for _, value in self.walk(frames):
            logits, probability = probability, value
        return logits, probability

    def forward(self, frames: Tensor) -> Tensor:
        return self.outputs(frames)[0]

    def check_size(self, height: int, width: int) -> None:
        """Refuses sizes that the skips or the RMP's largest pool cannot work with."""
        r, least = self.configuration.reduction, max(RMP_POOLS)
        if height % r or width % r or min(height, width) < least * r:
            raise ValueError(
                f"stem `{self.configuration.stem}` needs sides that are multiples of {r} and at least {least * r}, "
                f"got {height}x{width}"
            )


def dice_loss(probability: Tensor, mask: Tensor) -> Tensor:
    """Soft Dice with smoothing 1, per sample, averaged over the batch."""
    p, y = probability.flatten(1), mask.flatten(1)
    return (1 - (2 * (p * y).sum(1) + 1) / (p.sum(1) + y.sum(1) + 1)).mean()


def sum_of_squares(network: nn.Module) -> Tensor:
    """||params||^2 over every parameter, biases and norms included."""
    return sum((p.square().sum() for p in network.parameters()), start=torch.zeros(()))
