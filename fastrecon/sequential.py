"""A network of convolutions as the learned regulariser of LDA: `from_sequential`."""

from torch import Tensor, nn

from fastrecon.checks import expect, number
from fastrecon.nn import SmoothedReLU
from fastrecon.terms.feature_norm import FeatureNorm

CONVOLUTION = "a Conv2d 3x3 that keeps the size (padding 1 or 'same', zeros), without stride, groups or bias"


def from_sequential(net: nn.Sequential, eps: float | None = None, delta: float | None = None) -> FeatureNorm:
    """The term sum_i |g_i(x)| of features g that a network of convolutions and ReLUs computes.

    Its value, gradient and Hessian-vector products are kernels, where `torch.autograd.grad` of the network would run
    it forwards and backwards. The term holds the network's own kernels: what trains the one trains the other.

    Args:
        net: Conv2d, activation, Conv2d, ..., with or without an activation at the end. Activations are
            `fastrecon.nn.SmoothedReLU` of one radius; nn.ReLU is smoothed with `delta`. Identity, and dropout in
            evaluation, are passed over.
        eps: radius of the smoothed norm, see `FeatureNorm`.
        delta: radius of the smoothed ReLU; needed where there is an nn.ReLU.

    Raises:
        ValueError: a layer does not fit; the message names it.
    """
    op = "from_sequential"
    expect(isinstance(net, nn.Sequential), op, "net", "an nn.Sequential", type(net).__name__)
    kernels: list[Tensor] = []
    radii: set[float] = set()
    active = False  # whether the last convolution was activated
    for k, layer in enumerate(net):
        where = f"net[{k}]"
        if isinstance(layer, nn.Identity) or (isinstance(layer, nn.Dropout | nn.Dropout2d) and not layer.training):
            continue
        if isinstance(layer, nn.ReLU | SmoothedReLU):
            expect(len(kernels) > 0 and not active, op, where, CONVOLUTION, layer)
            own: float | None = layer.delta if isinstance(layer, SmoothedReLU) else delta
            expect(own is not None, op, where, "a SmoothedReLU, or delta, with which a ReLU is smoothed", layer)
            radii.add(float(number(own, op, "delta", above=0)))
            active = True
            continue
        expected = CONVOLUTION if active or not kernels else f"an activation, or after it {CONVOLUTION}"
        kernel = _kernel(layer) if active or not kernels else None
        if kernel is None:
            expect(False, op, where, expected, layer)
            raise AssertionError
        channels = kernels[-1].shape[0] if kernels else kernel.shape[1]
        expect(kernel.shape[1] == channels, op, where, f"{channels} channels in", layer)
        kernels.append(kernel)
        active = False
    expect(len(kernels) > 0, op, "net", f"at least {CONVOLUTION}", net)
    expect(len(radii) <= 1, op, "net", "one radius of all activations", sorted(radii))
    radius = radii.pop() if radii else 0.01 if delta is None else delta
    term = FeatureNorm(1, len(kernels), 1, radius, active, eps=eps)
    term.weights = nn.ParameterList(kernels)
    return term


def _kernel(layer: nn.Module) -> Tensor | None:
    """The kernel of a convolution that the ops know; None of another layer."""
    if not isinstance(layer, nn.Conv2d) or layer.bias is not None or layer.kernel_size != (3, 3):
        return None
    padded = layer.padding in ((1, 1), "same") and layer.padding_mode == "zeros"
    plain = padded and layer.stride == (1, 1) and layer.dilation == (1, 1) and layer.groups == 1
    return layer.weight if plain else None
