"""The networks that all methods are built of: encoder, decoder and discriminator of DCGAN's shape (arXiv 1511.06434).

Sizes as in GANomaly (arXiv 1805.06725, section 3.2 and figure 2). Plain modules: they know no loss, no data and no
score. Shape suffixes on tensor names: b batch, c channels, h height, w width, d latent size, k any other vector's size.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from ganomaly.acceleration.convolutions import Convolution, TransposedConvolution
from ganomaly.acceleration.precision import PrecisionSetting

MIN_SIZE_PX = 32
SIZE_STEP_PX = 16

_Networks = TypeVar("_Networks", bound=nn.Module)


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
        layers: list[nn.Module] = [Convolution(channels, features, 4, 2, 1), nn.LeakyReLU(0.2)]
        for _ in sides[1:]:
            layers += [
                Convolution(features, 2 * features, 4, 2, 1),
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
            if isinstance(layer, nn.LeakyReLU) or getattr(layer, "activated", False):
                outputs.append(x_bchw)
        return outputs


class Encoder(nn.Module):
    """Images (B, C, S, S) in [-1, 1] to latent vectors (B, D)."""

    def __init__(self, size_px: int, channels: int, config: NetworkConfig) -> None:
        super().__init__()
        self.pyramid = FeaturePyramid(size_px, channels, config.features)
        self.to_latent = Convolution(self.pyramid.out_channels, config.latent_size, self.pyramid.out_side_px)

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
            TransposedConvolution(config.latent_size, features, sides[-1]),
            nn.BatchNorm2d(features),
            self._activation(config),
        ]
        for _ in sides[1:]:
            layers += [
                TransposedConvolution(features, features // 2, 4, 2, 1),
                nn.BatchNorm2d(features // 2),
                self._activation(config),
            ]
            features //= 2
        layers += [TransposedConvolution(features, channels, 4, 2, 1), nn.Tanh()]
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
        self.to_logit = Convolution(self.pyramid.out_channels, 1, self.pyramid.out_side_px)

    def forward(self, x_bchw: Tensor) -> DiscriminatorOutput:
        """Judge images (B, C, S, S) in [-1, 1]."""
        features_bchw = self.pyramid(x_bchw)
        return DiscriminatorOutput(self.to_logit(features_bchw).flatten().float(), features_bchw.float())


def build(construct: Callable[[], _Networks], generator: torch.Generator) -> _Networks:
    """Networks with weights drawn from a CPU generator, channels last; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        networks = construct()
    initialise(networks, generator)
    return networks.to(memory_format=torch.channels_last)


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
