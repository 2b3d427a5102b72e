"""Networks for scoring: the same results from fewer and faster steps than training takes.

Batch norm is multiplied into the convolution before it. On a CPU, weights lie in memory as oneDNN's kernels read them,
and the kernels apply the activation that follows before they write their results.
"""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from ganomaly.acceleration.convolutions import MOST_IMAGE_CHANNELS, as_matrix, geometry_of, image_of
from ganomaly.acceleration.precision import Precision

PACKING = (
    "_reorder_convolution_weight",
    "_convolution_pointwise",
    "_reorder_convolution_transpose_weight",
    "_convolution_transpose_pointwise",
    "_reorder_linear_weight",
    "_linear_pointwise",
    "_is_mkldnn_bf16_supported",
)

_Module = TypeVar("_Module", bound=nn.Module)


def for_scoring(module: _Module, precision: Precision, device: torch.device) -> _Module:
    """A copy that gives the same results faster: batch norm folded into convolutions, on a CPU their weights packed."""
    module = folded(module)
    if device.type == "cpu":
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        for parent in list(module.modules()):
            for name, layer in list(parent.named_children()):
                if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                    setattr(parent, name, _for_cpu(layer, dtype))
        for layers in [layers for layers in module.modules() if isinstance(layers, nn.Sequential)]:
            _fuse_activations(layers)
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


def _for_cpu(plain: nn.Conv2d | nn.ConvTranspose2d, dtype: torch.dtype) -> nn.Module:
    if isinstance(plain, nn.ConvTranspose2d) and plain.out_channels <= MOST_IMAGE_CHANNELS:
        return ImageConvolution(plain, dtype)
    if not _can_pack(dtype):
        return plain
    spans = plain.stride == (1, 1) and plain.padding == (0, 0)
    return SpanningConvolution(plain, dtype) if spans else PackedConvolution(plain, dtype)


def _fuse_activations(layers: nn.Sequential) -> None:
    for at in reversed(range(1, len(layers))):
        activation, before = layers[at], layers[at - 1]
        if isinstance(activation, nn.ReLU | nn.LeakyReLU) and isinstance(before, PackedConvolution):
            before.activation = activation
            del layers[at]


class PackedConvolution(nn.Module):
    """A convolution for scoring on a CPU, whose weights lie in memory as oneDNN's kernel reads them.

    A plain convolution casts its weights and brings them into that order for every batch, which takes most of the time
    of a small one. Results are the same bit by bit, but for a leaky ReLU: it comes before the rounding, not after it.
    Where gradients are asked for, the plain convolution serves.

    Args:
        plain: the convolution.
        dtype: that it computes in.

    Attributes:
        activation: what is applied to its results, None for nothing.
    """

    activation: nn.ReLU | nn.LeakyReLU | None

    def __init__(self, plain: nn.Conv2d | nn.ConvTranspose2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.plain = plain
        self.dtype = dtype
        self.activation = None
        self.bias = None if plain.bias is None else plain.bias.detach().to(dtype)
        self._packed: dict[tuple[int, ...], Tensor] = {}  # oneDNN may want another order for another shape

    @property
    def activated(self) -> bool:
        """Whether an activation is applied to its results."""
        return self.activation is not None

    def forward(self, x_bchw: Tensor) -> Tensor:
        """As the plain convolution and the activation do, (B, C, H, W) to (B, C', H', W')."""
        if torch.is_grad_enabled():
            y_bchw: Tensor = self.plain(x_bchw)
            return y_bchw if self.activation is None else self.activation(y_bchw)
        x_bchw = x_bchw.to(self.dtype)
        shape = tuple(x_bchw.shape)
        if shape not in self._packed:
            self._packed[shape] = self._pack(self.plain.weight.to(self.dtype), shape)
        return self._convolve(x_bchw, self._packed[shape])

    def _pack(self, weight: Tensor, shape: tuple[int, ...]) -> Tensor:
        pack = torch.ops.mkldnn
        if isinstance(self.plain, nn.ConvTranspose2d):
            return pack._reorder_convolution_transpose_weight(weight, *self._where, shape)  # type: ignore[no-any-return]
        return pack._reorder_convolution_weight(weight, *self._where, shape)  # type: ignore[no-any-return]

    def _convolve(self, x_bchw: Tensor, packed: Tensor) -> Tensor:
        convolve = torch.ops.mkldnn._convolution_pointwise
        if isinstance(self.plain, nn.ConvTranspose2d):
            convolve = torch.ops.mkldnn._convolution_transpose_pointwise
        return convolve(x_bchw, packed, self.bias, *self._where, *self._then)  # type: ignore[no-any-return]

    @property
    def _where(self) -> tuple[object, ...]:
        plain = self.plain
        where = (plain.stride, plain.dilation, plain.groups)
        if isinstance(plain, nn.ConvTranspose2d):
            return (plain.padding, plain.output_padding, *where)
        return (plain.padding, *where)

    @property
    def _then(self) -> tuple[str, list[float], str]:
        """The activation as oneDNN's kernels are told of it."""
        if self.activation is None:
            return "none", [], ""
        if isinstance(self.activation, nn.LeakyReLU):
            return "leaky_relu", [self.activation.negative_slope], ""
        return "relu", [], ""


class SpanningConvolution(PackedConvolution):
    """One whose kernel spans the whole map, to a vector or, transposed, from one: a product of matrices.

    oneDNN takes four to nine times as long for it as a convolution. Sums are added up in another order, so that results
    differ in their last digit.
    """

    def __init__(self, plain: nn.Conv2d | nn.ConvTranspose2d, dtype: torch.dtype) -> None:
        super().__init__(plain, dtype)
        if isinstance(plain, nn.ConvTranspose2d) and self.bias is not None:
            self.bias = self.bias.repeat(plain.kernel_size[0] * plain.kernel_size[1])

    def _pack(self, weight: Tensor, shape: tuple[int, ...]) -> Tensor:
        matrix = as_matrix(weight)
        rows = matrix.T if isinstance(self.plain, nn.ConvTranspose2d) else matrix
        return torch.ops.mkldnn._reorder_linear_weight(rows.contiguous(), shape[0])  # type: ignore[no-any-return]

    def _convolve(self, x_bchw: Tensor, packed: Tensor) -> Tensor:
        rows = x_bchw.permute(0, 2, 3, 1).flatten(1)
        y: Tensor = torch.ops.mkldnn._linear_pointwise(rows, packed, self.bias, *self._then)
        if isinstance(self.plain, nn.ConvTranspose2d):
            height, width = self.plain.kernel_size
            return y.view(len(y), height, width, -1).permute(0, 3, 1, 2)
        return y[:, :, None, None]


class ImageConvolution(nn.Module):
    """A decoder's last convolution for scoring on a CPU, see `ganomaly.acceleration.convolutions.image_of`.

    It takes a fifth of a plain one's time for a grey image, and rounds to the networks' precision once and not twice.
    Where gradients are asked for, the plain convolution serves.

    Args:
        plain: the convolution, square in all it does.
        dtype: that it computes in.
    """

    def __init__(self, plain: nn.ConvTranspose2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.plain = plain
        self.dtype = dtype
        self.kernels_kf = plain.weight.detach().flatten(1).T.to(dtype).contiguous()

    def forward(self, x_bchw: Tensor) -> Tensor:
        """As the plain convolution does, (B, C, H, W) to float32 (B, C', H', W')."""
        if torch.is_grad_enabled():
            return self.plain(x_bchw)  # type: ignore[no-any-return]
        image_bchw = image_of(
            x_bchw.to(self.dtype), self.kernels_kf, self.plain.kernel_size[0], geometry_of(self.plain)
        )
        return image_bchw if self.plain.bias is None else image_bchw + self.plain.bias[:, None, None]


def _can_pack(dtype: torch.dtype) -> bool:
    """Whether this PyTorch and this CPU have what `PackedConvolution` needs: it is not public, so it may be missing."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if not all(hasattr(torch.ops.mkldnn, name) for name in PACKING):
        return False
    return dtype != torch.bfloat16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
