"""The networks' strided convolutions, and how they train fast in bfloat16 on a CPU: as products of matrices.

A convolution and its gradients are one product each of the weights, or of the other map, with the map's windows laid
out as rows. oneDNN does without laying them out, which wins on wide maps. On the narrow maps of the deep layers, back
to an image of few channels, and where a kernel spans the whole map it loses, and the product serves
(`python -m tests.benchmarks.convolutions`). Elsewhere, in float32 and on a GPU, everything is PyTorch's own.

Below, a convolution leads from a fine map (B, C, H, W) to a coarse one (B, F, h, w), a transposed one back. Weights are
(F, C, k, k) in both.
"""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody uses
from torch import Tensor, nn

MOST_IMAGE_CHANNELS = 3
FEW_PLACES = 16
"""Places h * w of a coarse map up to which a forward pass is faster as a product."""

SOME_PLACES = 64
"""Places h * w of a coarse map up to which the gradient of the weights is faster as a product."""

ROWS_BYTES = 1 << 24
"""About so much memory for windows that are laid out: more leaves the caches."""

Geometry = tuple[int, int]
"""Stride and padding of a convolution, the same in both directions."""


class Convolution(nn.Conv2d):
    """`torch.nn.Conv2d` of a square kernel without bias: (B, C, H, W) to (B, F, h, w)."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=False)

    def forward(self, x_bchw: Tensor) -> Tensor:
        """Convolve maps (B, C, H, W)."""
        if not _trains_in_bf16(self, x_bchw):
            return super().forward(x_bchw)
        return _apply(x_bchw, self, transposed=False)


class TransposedConvolution(nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d` of a square kernel without bias: (B, F, h, w) to (B, C, H, W)."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=False)

    def forward(self, x_bchw: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Convolve maps (B, F, h, w)."""
        if output_size is not None or not _trains_in_bf16(self, x_bchw):
            return super().forward(x_bchw, output_size)
        return _apply(x_bchw, self, transposed=True)


def _trains_in_bf16(layer: nn.Conv2d | nn.ConvTranspose2d, x_bchw: Tensor) -> bool:
    """Whether autocast asks for bfloat16 here; a bias comes only from folding batch norm, which is not for training."""
    if x_bchw.device.type != "cpu" or layer.bias is not None or not torch.is_autocast_enabled("cpu"):
        return False
    return torch.get_autocast_dtype("cpu") == torch.bfloat16


def geometry_of(layer: nn.Conv2d | nn.ConvTranspose2d) -> Geometry:
    """Stride and padding of a convolution that is the same in both directions."""
    return int(layer.stride[0]), int(layer.padding[0])


def rows_of(fine_bchw: Tensor, kernel: int, geometry: Geometry) -> Tensor:
    """The windows of maps as the rows of a matrix, (B * h * w, k * k * C); no copy where one window spans the map."""
    stride, padding = geometry
    padded_bchw = F.pad(fine_bchw, (padding,) * 4) if padding else fine_bchw
    padded_bhwc = padded_bchw.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    n_images, height, width, channels = padded_bhwc.shape
    down, right = ((side - kernel) // stride + 1 for side in (height, width))
    by_image, by_row, by_pixel, _ = padded_bhwc.stride()
    windows = padded_bhwc.as_strided(
        (n_images, down, right, kernel, kernel * channels), (by_image, stride * by_row, stride * by_pixel, by_row, 1)
    )
    return windows.reshape(n_images * down * right, kernel * kernel * channels)


def as_matrix(weight_fckk: Tensor) -> Tensor:
    """Weights as a matrix (F, k * k * C), in the order of `rows_of`."""
    return weight_fckk.permute(0, 2, 3, 1).flatten(1)


def places_of(coarse_bfhw: Tensor) -> Tensor:
    """A coarse map's places as the rows of a matrix, (B * h * w, F)."""
    return coarse_bfhw.permute(0, 2, 3, 1).reshape(-1, coarse_bfhw.shape[1])


def image_of(coarse_bfhw: Tensor, kernels_kf: Tensor, kernel: int, geometry: Geometry) -> Tensor:
    """A transposed convolution to few channels: one product of matrices, whose results are added up in float32.

    oneDNN computes at least 16 channels where an image has 1 or 3.

    Args:
        coarse_bfhw: maps (B, F, h, w).
        kernels_kf: the weights as (C * k * k, F), of the maps' type.
        kernel: k.
        geometry: stride and padding.

    Returns:
        float32 (B, C, H, W).
    """
    stride, padding = geometry
    n_images, _, height, width = coarse_bfhw.shape
    columns_kbl = (kernels_kf @ places_of(coarse_bfhw).T).float().view(-1, n_images, height * width)
    size = tuple((side - 1) * stride - 2 * padding + kernel for side in (height, width))
    return F.fold(columns_kbl.permute(1, 0, 2), size, kernel, 1, padding, stride)


def _down(fine_bchw: Tensor, weight_fckk: Tensor, geometry: Geometry) -> Tensor:
    """The convolution of a fine map, (B, F, h, w)."""
    n_features, _, kernel, _ = weight_fckk.shape
    stride, padding = geometry
    height, width = ((side + 2 * padding - kernel) // stride + 1 for side in fine_bchw.shape[2:])
    if height * width > FEW_PLACES:
        return F.conv2d(fine_bchw, weight_fckk, None, stride, padding)
    products = rows_of(fine_bchw, kernel, geometry) @ as_matrix(weight_fckk).T
    return products.view(-1, height, width, n_features).permute(0, 3, 1, 2)


def _up(coarse_bfhw: Tensor, weight_fckk: Tensor, geometry: Geometry) -> Tensor:
    """The transposed convolution of a coarse map, (B, C, H, W)."""
    _, channels, kernel, _ = weight_fckk.shape
    stride, padding = geometry
    if coarse_bfhw.shape[2:] == (1, 1) and not padding:
        products = coarse_bfhw.flatten(1) @ as_matrix(weight_fckk)
        return products.view(-1, kernel, kernel, channels).permute(0, 3, 1, 2)
    if channels <= MOST_IMAGE_CHANNELS:
        return image_of(coarse_bfhw, weight_fckk.flatten(1).T, kernel, geometry)
    return F.conv_transpose2d(coarse_bfhw, weight_fckk, None, stride, padding)


def _weight_gradient(fine_bchw: Tensor, coarse_bfhw: Tensor, weight_fckk: Tensor, geometry: Geometry) -> Tensor:
    """The gradient of the weights, (F, C, k, k); of the weights only the shape matters."""
    n_features, channels, kernel, _ = weight_fckk.shape
    stride, padding = geometry
    n_places = coarse_bfhw.shape[2:].numel()
    if channels <= MOST_IMAGE_CHANNELS or n_places > SOME_PLACES:
        where = ([stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1)
        backward = torch.ops.aten.convolution_backward
        gradient: Tensor = backward(coarse_bfhw, fine_bchw, weight_fckk, None, *where, [False, True, False])[1]
        return gradient
    n_together = max(1, ROWS_BYTES // (n_places * kernel * kernel * channels * fine_bchw.element_size()))
    parts = zip(torch.split(coarse_bfhw, n_together), torch.split(fine_bchw, n_together), strict=True)
    products = (places_of(coarse).T @ rows_of(fine, kernel, geometry) for coarse, fine in parts)
    gradient = next(products)
    for more in products:
        gradient = gradient.float().add_(more)
    return gradient.view(n_features, kernel, kernel, channels).permute(0, 3, 1, 2)


def _apply(x_bchw: Tensor, layer: nn.Conv2d | nn.ConvTranspose2d, *, transposed: bool) -> Tensor:
    """A convolution whose two gradients are computed only where somebody asks for them.

    PyTorch runs those nodes of the graph that lead to the weights whose gradients are wanted. D's are not while G is
    updated, so the gradient of the weights has a node of its own.
    """
    x_bchw, weight_fckk = x_bchw.bfloat16(), layer.weight.detach().bfloat16()
    geometry = geometry_of(layer)
    y_bchw: Tensor = _Convolve.apply(x_bchw, weight_fckk, geometry, transposed)
    if not (torch.is_grad_enabled() and layer.weight.requires_grad):
        return y_bchw
    carrier = _WeightGradient.apply(layer.weight, weight_fckk, x_bchw.detach(), y_bchw.detach(), geometry, transposed)
    joined: Tensor = _Join.apply(y_bchw, carrier)
    return joined


class _Convolve(torch.autograd.Function):
    """A convolution, or a transposed one, with the gradient of its input, which is the other one of the gradient."""

    @staticmethod
    def forward(ctx: Any, x_bchw: Tensor, weight_fckk: Tensor, geometry: Geometry, transposed: bool) -> Tensor:
        ctx.save_for_backward(weight_fckk)
        ctx.geometry, ctx.transposed = geometry, transposed
        return (_up if transposed else _down)(x_bchw, weight_fckk, geometry)

    @staticmethod
    def backward(ctx: Any, gradient_bchw: Tensor) -> tuple[Tensor, None, None, None]:
        (weight_fckk,) = ctx.saved_tensors
        back = _down if ctx.transposed else _up
        return back(gradient_bchw.bfloat16(), weight_fckk, ctx.geometry), None, None, None


class _WeightGradient(torch.autograd.Function):
    """Nothing of the shape of a convolution's result; going back, the gradient of the convolution's weights."""

    @staticmethod
    def forward(
        ctx: Any,
        weight_fckk: Tensor,  # noqa: ARG004 - whose gradient it is
        rounded_fckk: Tensor,
        x_bchw: Tensor,
        y_bchw: Tensor,
        geometry: Geometry,
        transposed: bool,
    ) -> Tensor:
        ctx.save_for_backward(x_bchw, rounded_fckk)
        ctx.geometry, ctx.transposed = geometry, transposed
        return y_bchw.new_empty(()).expand(y_bchw.shape)

    @staticmethod
    def backward(ctx: Any, gradient_bchw: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        x_bchw, rounded_fckk = ctx.saved_tensors
        maps = (x_bchw, gradient_bchw.bfloat16())
        fine_bchw, coarse_bfhw = maps[::-1] if ctx.transposed else maps
        gradient = _weight_gradient(fine_bchw, coarse_bfhw, rounded_fckk, ctx.geometry)
        return gradient, None, None, None, None, None


class _Join(torch.autograd.Function):
    """The first of two tensors; its gradient goes to both."""

    @staticmethod
    def forward(ctx: Any, y_bchw: Tensor, carrier_bchw: Tensor) -> Tensor:  # noqa: ARG004
        return y_bchw.view_as(y_bchw)

    @staticmethod
    def backward(ctx: Any, gradient_bchw: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG004
        return gradient_bchw, gradient_bchw
