"""The networks that all methods are built of: encoder, decoder and discriminator of DCGAN's shape (arXiv 1511.06434).

Sizes as in GANomaly (arXiv 1805.06725, section 3.2 and figure 2). Plain modules: they know no loss, no data and no
score. Shape suffixes on tensor names: b batch, c channels, h height, w width, d latent size, k any other vector's size.
"""

import copy
from typing import Literal, NamedTuple, TypeVar

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody uses
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from ganomaly.precision import Precision, PrecisionSetting

MIN_SIZE_PX = 32
MOST_IMAGE_CHANNELS = 3
SIZE_STEP_PX = 16

_Module = TypeVar("_Module", bound=nn.Module)


class NetworkConfig(BaseModel):
    """Sizes of the networks, by default the paper's (section 4.2 and the authors' settings), and their arithmetic."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    latent_size: int = Field(100, ge=1, le=4096, description="length of the latent vectors z and z_hat")
    features: int = Field(64, ge=4, le=512, description="channels after the first convolution; doubled at each halving")
    decoder_activation: Literal["relu", "leaky_relu"] = Field(
        "relu", description="the paper uses ReLU in the decoder; some published notes say leaky ReLU"
    )
    precision: PrecisionSetting = Field(
        "auto",
        description="arithmetic of the networks in training and scoring; auto: bf16 where the hardware computes in it, "
        "which is about twice as fast, fp32 elsewhere. A saved detector keeps what it was calibrated in",
    )


def pyramid_sides(size_px: int) -> list[int]:
    """Sides of the feature maps from the first convolution down to the one that the last convolution spans.

    Each step halves the side, until it is 4 or odd: 64 gives [32, 16, 8, 4] and 80 gives [40, 20, 10, 5].

    Raises:
        ValueError: if ``size_px`` is not a multiple of 16 from 32 up.
    """
    if size_px < MIN_SIZE_PX or size_px % SIZE_STEP_PX:
        raise ValueError(f"size_px = {size_px}: must be a multiple of {SIZE_STEP_PX} from {MIN_SIZE_PX} up")
    sides = [size_px // 2]
    while sides[-1] > 4 and sides[-1] % 2 == 0:
        sides.append(sides[-1] // 2)
    return sides


class FeaturePyramid(nn.Sequential):
    """Strided convolutions with leaky ReLU: (B, C, S, S) to (B, features * 2^k, side, side)."""

    def __init__(self, size_px: int, channels: int, features: int) -> None:
        sides = pyramid_sides(size_px)
        layers: list[nn.Module] = [nn.Conv2d(channels, features, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
        for _ in sides[1:]:
            layers += [
                nn.Conv2d(features, 2 * features, 4, 2, 1, bias=False),
                nn.BatchNorm2d(2 * features),
                nn.LeakyReLU(0.2),
            ]
            features *= 2
        super().__init__(*layers)
        self.out_channels = features
        self.out_side_px = sides[-1]

    def activations(self, x_bchw: Tensor, n_layers: int | None = None) -> list[Tensor]:
        """The output of each of the first halvings of images (B, C, S, S), or of all: first (B, features, S/2, S/2)."""
        outputs: list[Tensor] = []
        for layer in self:
            if len(outputs) == n_layers:
                break
            x_bchw = layer(x_bchw)
            if isinstance(layer, nn.LeakyReLU):
                outputs.append(x_bchw)
        return outputs


class Encoder(nn.Module):
    """Images (B, C, S, S) in [-1, 1] to latent vectors (B, D)."""

    def __init__(self, size_px: int, channels: int, config: NetworkConfig) -> None:
        super().__init__()
        self.pyramid = FeaturePyramid(size_px, channels, config.features)
        self.to_latent = nn.Conv2d(self.pyramid.out_channels, config.latent_size, self.pyramid.out_side_px, bias=False)

    def forward(self, x_bchw: Tensor) -> Tensor:
        """Encode images (B, C, S, S) as latent vectors (B, D)."""
        return self.last_step(self.pyramid(x_bchw))

    def last_step(self, features_bchw: Tensor) -> Tensor:
        """Latent vectors (B, D) of what the pyramid gives, float32 in any precision, as all that networks give."""
        z_bd: Tensor = self.to_latent(features_bchw).flatten(1)
        return z_bd.float()


class Decoder(nn.Module):
    """Latent vectors (B, D) to images (B, C, S, S) in [-1, 1]."""

    def __init__(self, size_px: int, channels: int, config: NetworkConfig) -> None:
        super().__init__()
        sides = pyramid_sides(size_px)
        features = config.features * 2 ** (len(sides) - 1)
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(config.latent_size, features, sides[-1], bias=False),
            nn.BatchNorm2d(features),
            self._activation(config),
        ]
        for _ in sides[1:]:
            layers += [
                nn.ConvTranspose2d(features, features // 2, 4, 2, 1, bias=False),
                nn.BatchNorm2d(features // 2),
                self._activation(config),
            ]
            features //= 2
        layers += [nn.ConvTranspose2d(features, channels, 4, 2, 1, bias=False), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    @staticmethod
    def _activation(config: NetworkConfig) -> nn.Module:
        return nn.ReLU() if config.decoder_activation == "relu" else nn.LeakyReLU(0.2)

    def forward(self, z_bd: Tensor) -> Tensor:
        """Decode latent vectors (B, D) into images (B, C, S, S)."""
        x_bchw: Tensor = self.layers(z_bd[:, :, None, None])
        return x_bchw.float()


class DiscriminatorOutput(NamedTuple):
    """Real-or-fake logits (B,) and the feature map f of the last hidden layer (B, F, side, side)."""

    logits_b: Tensor
    features_bchw: Tensor


class Discriminator(nn.Module):
    """D of DCGAN; its last hidden layer is the feature map f that losses and scores compare images by."""

    def __init__(self, size_px: int, channels: int, config: NetworkConfig) -> None:
        super().__init__()
        self.pyramid = FeaturePyramid(size_px, channels, config.features)
        self.to_logit = nn.Conv2d(self.pyramid.out_channels, 1, self.pyramid.out_side_px, bias=False)

    def forward(self, x_bchw: Tensor) -> DiscriminatorOutput:
        """Judge images (B, C, S, S) in [-1, 1]."""
        features_bchw = self.pyramid(x_bchw)
        return DiscriminatorOutput(self.to_logit(features_bchw).flatten().float(), features_bchw.float())


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Draw all weights anew as DCGAN does: convolutions and linear layers N(0, 0.02), batch norm N(1, 0.02), biases 0.

    Args:
        module: on any device.
        generator: a CPU generator.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            _draw_normal(layer.weight, 0.0, generator)
        elif isinstance(layer, nn.Linear):
            _draw_normal(layer.weight, 0.0, generator)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()
            _draw_normal(layer.weight, 1.0, generator)


@torch.no_grad()
def _draw_normal(weight: Tensor, mean: float, generator: torch.Generator) -> None:
    # drawn on the CPU, where the generator lives: the weight may be on another device
    weight.copy_(torch.empty(weight.shape).normal_(mean, 0.02, generator=generator))


def for_scoring(module: _Module, precision: Precision, device: torch.device) -> _Module:
    """A copy that gives the same results faster: batch norm folded into convolutions, on a CPU their weights packed."""
    module = folded(module)
    if device.type == "cpu":
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        for parent in list(module.modules()):
            for name, layer in list(parent.named_children()):
                if isinstance(layer, nn.ConvTranspose2d) and layer.out_channels <= MOST_IMAGE_CHANNELS:
                    setattr(parent, name, ImageConvolution(layer, dtype))
                elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and _can_pack(dtype):
                    setattr(parent, name, PackedConvolution(layer, dtype))
    return module


@torch.no_grad()
def folded(module: _Module) -> _Module:
    """A copy for scoring with the same result: each batch norm is multiplied into the convolution before it."""
    module = copy.deepcopy(module).eval().requires_grad_(False)
    for layers in [layers for layers in module.modules() if isinstance(layers, nn.Sequential)]:
        for at in reversed(range(1, len(layers))):
            norm, before = layers[at], layers[at - 1]
            if isinstance(norm, nn.BatchNorm2d) and isinstance(before, nn.Conv2d | nn.ConvTranspose2d):
                layers[at - 1] = fuse_conv_bn_eval(before, norm, transpose=isinstance(before, nn.ConvTranspose2d))
                del layers[at]
    return module.to(memory_format=torch.channels_last)


PACKING = (
    "_reorder_convolution_weight",
    "_convolution_pointwise",
    "_reorder_convolution_transpose_weight",
    "_convolution_transpose_pointwise",
    "_is_mkldnn_bf16_supported",
)


class PackedConvolution(nn.Module):
    """A convolution for scoring on a CPU, whose weights lie in memory as oneDNN's kernel reads them.

    A plain convolution casts its weights and brings them into that order for every batch, which takes most of the time
    of a small one. Results are the same bit by bit. Where gradients are asked for, the plain convolution serves.

    Args:
        plain: the convolution.
        dtype: that it computes in.
    """

    def __init__(self, plain: nn.Conv2d | nn.ConvTranspose2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.plain = plain
        self.dtype = dtype
        self.bias = None if plain.bias is None else plain.bias.detach().to(dtype)
        self._packed: dict[tuple[int, ...], Tensor] = {}  # oneDNN may want another order for another shape

    def forward(self, x_bchw: Tensor) -> Tensor:
        """As the plain convolution does, (B, C, H, W) to (B, C', H', W')."""
        if torch.is_grad_enabled():
            return self.plain(x_bchw)  # type: ignore[no-any-return]
        plain, ops, x_bchw = self.plain, torch.ops.mkldnn, x_bchw.to(self.dtype)
        where: tuple[object, ...] = (plain.stride, plain.dilation, plain.groups)
        if isinstance(plain, nn.ConvTranspose2d):
            where = (plain.padding, plain.output_padding, *where)
            pack, convolve = ops._reorder_convolution_transpose_weight, ops._convolution_transpose_pointwise
        else:
            where = (plain.padding, *where)
            pack, convolve = ops._reorder_convolution_weight, ops._convolution_pointwise
        shape = tuple(x_bchw.shape)
        if shape not in self._packed:
            self._packed[shape] = pack(plain.weight.to(self.dtype), *where, shape)
        result: Tensor = convolve(x_bchw, self._packed[shape], self.bias, *where, "none", [], "")
        return result


class ImageConvolution(nn.Module):
    """A decoder's last convolution for scoring on a CPU: one product of matrices, whose results are then added up.

    oneDNN computes at least 16 channels where an image has 1 or 3; this takes a fifth of its time for a grey image.
    Rounded to the networks' precision once and not twice. Where gradients are asked for, the plain convolution serves.

    Args:
        plain: the convolution, square in all it does.
        dtype: that it computes in.
    """

    def __init__(self, plain: nn.ConvTranspose2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.plain = plain
        self.dtype = dtype
        self.shape = tuple(int(pair[0]) for pair in (plain.kernel_size, plain.stride, plain.padding))
        self.kernels_kc = plain.weight.detach().flatten(1).T.to(dtype).contiguous()

    def forward(self, x_bchw: Tensor) -> Tensor:
        """As the plain convolution does, (B, C, H, W) to float32 (B, C', H', W')."""
        if torch.is_grad_enabled():
            return self.plain(x_bchw)  # type: ignore[no-any-return]
        n_images, n_channels, height, width = x_bchw.shape
        pixels_nc = x_bchw.to(self.dtype).permute(0, 2, 3, 1).reshape(-1, n_channels)
        columns_kbl = (self.kernels_kc @ pixels_nc.T).float().view(-1, n_images, height * width)
        (kernel, stride, padding), bias = self.shape, self.plain.bias
        size = tuple((side - 1) * stride - 2 * padding + kernel for side in (height, width))
        image_bchw = F.fold(columns_kbl.permute(1, 0, 2), size, kernel, 1, padding, stride)
        return image_bchw if bias is None else image_bchw + bias[:, None, None]


def _can_pack(dtype: torch.dtype) -> bool:
    """Whether this PyTorch and this CPU have what `PackedConvolution` needs: it is not public, so it may be missing."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if not all(hasattr(torch.ops.mkldnn, name) for name in PACKING):
        return False
    return dtype != torch.bfloat16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
