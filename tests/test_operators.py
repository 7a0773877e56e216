import copy
import importlib
import math
import pickle

import numpy as np
import pytest
import torch
from utils import compiles

from fastrecon import registry
from fastrecon.operators import (
    BlockSensing,
    Blur,
    BlurredSlopes,
    Callables,
    ColourSlopes,
    Crop,
    Dictionary,
    Fourier,
    Gradient,
    Inpainting,
    Kirsch,
    Layers,
    LinearOperator,
    Radon,
    Wavelet,
    gaussian_kernel,
    measurements,
    random_phi,
)
from fastrecon.solvers import FISTA


def fan():
    angles = torch.tensor([0.1, 1.0, 4.0])
    return Radon((6, 8), angles, geometry="fan", source_distance=9.0, detector_distance=3.0, curved=True, pixel=0.5)


class Flip(LinearOperator):
    """Mirrors the image: no closed-form norm, no parameters."""

    def forward(self, x):
        return 3 * x.flip(-1)

    def apply_adjoint(self, y, size=None):
        return 3 * y.flip(-1)


def sensing(m=7, block=4, dtype=torch.float64):
    return BlockSensing(random_phi(m, block * block, seed=1).to(dtype), block)


def random(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def some(*shape):
    """A mask that knows about half."""
    return (random(*shape) > 0).double()


def coils(**options):
    return Fourier(some(2, 1, 6, 4), sensitivities=random(2, 3, 6, 4, dtype=torch.complex128), **options)


def numpy_blur(x):
    """Of whatever NumPy reads: circular differences in both directions, of the last two axes."""
    x = np.asarray(x)
    return np.stack((np.roll(x, 1, -1) - x, np.roll(x, 1, -2) - x))


def numpy_blur_adjoint(y):
    y = np.asarray(y)
    return np.roll(y[0], -1, -1) - y[0] + np.roll(y[1], -1, -2) - y[1]


def given_by_functions(shape):
    if len(shape) == 2:
        return Callables(numpy_blur, numpy_blur_adjoint, shape, dtype=torch.float64)
    part = random(*shape[-3:])
    if len(shape) == 3:
        pair = lambda x: (part.to(x) * x).sum(0), lambda y: part.to(y) * y
    else:
        pair = lambda x: part.to(x) * x, lambda y: part.to(y) * y
    return Callables(*pair, shape, dtype=torch.float64)


OPERATORS = {  # a new operator is one row: how it is made, the shape of an input, its norm
    "block_sensing": (sensing, (2, 1, 9, 14), 1.0),
    "block_sensing_of_whole_blocks": (sensing, (1, 1, 8, 4), 1.0),
    "block_sensing_not_orthonormal": (
        lambda: BlockSensing(torch.arange(8.0, dtype=torch.float64).view(2, 4), 2),
        (1, 1, 4, 4),
        None,
    ),
    "dictionary": (lambda: Dictionary(random_phi(5, 9, seed=2).T * torch.arange(1.0, 6.0)), (2, 3, 5), 5.0),
    "composition": (lambda: sensing() @ Flip(), (1, 1, 8, 12), 3.0),
    "adjoint": (lambda: sensing().T, (1, 2, 3, 7), 1.0),
    "adjoint_of_composition": (lambda: (sensing() @ Flip()).T, (1, 2, 3, 7), 3.0),
    "radon": (lambda: Radon((9, 7), 6), (2, 1, 9, 7), None),
    "radon_fan": (fan, (1, 2, 6, 8), None),
    "adjoint_of_radon": (lambda: fan().T, (1, 1, 3, 13), None),
    "composition_with_radon": (lambda: Radon((8, 5), 4, spacing=0.7) @ Flip(), (1, 1, 8, 5), None),
    "inpainting": (lambda: Inpainting(some(5, 7)), (2, 3, 5, 7), 1.0),
    "inpainting_per_image": (lambda: Inpainting(2 * some(2, 1, 5, 7)), (2, 1, 5, 7), 2.0),
    "fourier": (lambda: Fourier(some(6, 5)), (2, 1, 6, 5), 1.0),
    "fourier_centred_per_image": (lambda: Fourier(some(2, 1, 5, 6), centred=True), (2, 1, 5, 6), 1.0),
    "fourier_multi_coil": (coils, (2, 1, 6, 4), None),
    "fourier_multi_coil_centred": (lambda: coils(centred=True), (2, 1, 6, 4), None),
    "blur": (lambda: Blur(random(3, 5).abs() / random(3, 5).abs().sum()), (2, 2, 6, 7), 1.0),
    "blur_of_any_sign": (lambda: Blur(random(5, 3)), (1, 1, 7, 8), None),
    "blur_zero_boundary": (lambda: Blur(random(5, 3), "zero"), (1, 2, 7, 5), None),
    "blur_per_image": (lambda: Blur(random(2, 1, 3, 3).abs(), "zero"), (2, 1, 5, 6), None),
    "wavelet": (lambda: Wavelet("db2", 2), (2, 1, 8, 12), 1.0),
    "wavelet_of_any_size": (lambda: Wavelet("sym4", 3), (2, 1, 7, 13), 1.0),
    "wavelet_of_one_size": (lambda: Wavelet("db2", 2, (5, 12)), (1, 2, 5, 12), 1.0),
    "adjoint_of_wavelet": (lambda: Wavelet("db2", 2, (5, 7)).T, (1, 2, 8, 8), 1.0),
    "inpainting_of_filled_wavelet": (lambda: Inpainting(3 * some(5, 7)) @ Wavelet("sym4", 2).T, (1, 1, 8, 8), 3.0),
    "fourier_of_filled_wavelet": (lambda: Fourier(some(5, 7)) @ Wavelet("sym4", 2).T, (1, 1, 8, 8), 1.0),
    "radon_of_filled_wavelet": (lambda: Radon((5, 7), 4) @ Wavelet("haar", 2).T, (1, 1, 8, 8), None),
    "blur_of_filled_wavelet": (lambda: Blur(random(3, 3)) @ Wavelet("haar", 2, (5, 7)).T, (1, 1, 8, 8), None),
    "sensing_of_filled_wavelet": (lambda: sensing() @ Wavelet("haar", 2, (5, 7)).T, (1, 1, 8, 8), 1.0),
    "radon_elsewhere": (lambda: Radon((9, 7), 5, centre=(2.0, 3.5), offset=0.3), (2, 1, 9, 7), None),
    "inpainting_of_wavelet": (lambda: Inpainting(some(8, 8)) @ Wavelet("sym4", 3).T, (1, 1, 8, 8), 1.0),
    "fourier_of_wavelet": (lambda: Fourier(some(8, 8)) @ Wavelet("sym4", 2).T, (1, 1, 8, 8), 1.0),
    "fourier_centred_on_both_sides": (lambda: Fourier(some(5, 6), centred="both"), (2, 1, 5, 6), 1.0),
    "fourier_multi_coil_centred_on_both_sides": (lambda: coils(centred="both"), (2, 1, 6, 4), None),
    "functions_of_arrays": (lambda: given_by_functions((5, 6)), (2, 1, 5, 6), None),
    "functions_of_images": (lambda: given_by_functions((2, 3, 4)), (2, 2, 3, 4), None),
    "functions_of_batches": (lambda: given_by_functions((1, 2, 3, 4)), (3, 2, 3, 4), None),
    "functions_of_filled_wavelet": (lambda: given_by_functions((5, 6)) @ Wavelet("haar", 2).T, (1, 1, 8, 8), None),
    "gradient": (Gradient, (2, 1, 6, 8), 8**0.5),
    "gradient_of_odd_sizes": (Gradient, (2, 2, 5, 1), None),
    "gradient_of_blur": (lambda: Gradient() @ Blur(random(3, 3)), (1, 1, 5, 6), None),
    "blurred_slopes": (lambda: BlurredSlopes(Blur(random(3, 5).abs()), 0.25), (2, 2, 6, 7), 0.5),
    "colour_slopes": (lambda: ColourSlopes(0.25).double(), (2, 6, 6, 7), 0.5),
    "layers": (lambda: Layers(3), (2, 6, 4, 5), 3**0.5),
    "adjoint_of_gradient": (lambda: Gradient().T, (1, 4, 5, 4), None),
    "kirsch": (Kirsch, (2, 1, 6, 8), None),
    "kirsch_of_few_pixels": (Kirsch, (1, 1, 2, 1), None),
    "adjoint_of_kirsch": (lambda: Kirsch().T, (1, 8, 5, 4), None),
    "adjoint_of_fourier": (lambda: Fourier(some(6, 5)).T, (2, 1, 6, 5), 1.0),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_adjoint_is_the_adjoint(name):
    make, shape, _ = OPERATORS[name]
    assert make().adjoint_test(shape) < 1e-12


def largest_singular_value(a, shape):
    """Of what the operator does to one image; the largest of all images where each has its own mask or kernel."""
    kind = torch.complex128 if a.complex_input else torch.float64
    n = math.prod(shape[1:])
    columns = torch.stack([a(e.expand(shape[0], n).reshape(shape)).flatten(1) for e in torch.eye(n, dtype=kind)], 2)
    return torch.linalg.matrix_norm(columns, 2).max().item()


@pytest.mark.parametrize("name", OPERATORS)
def test_norm_is_the_largest_singular_value(name):
    make, shape, norm = OPERATORS[name]
    largest = largest_singular_value(make(), shape)
    assert make().norm(shape, tol=1e-9, max_iterations=10_000) == pytest.approx(largest, rel=1e-5)
    if norm is not None:
        assert largest == pytest.approx(norm)


@pytest.mark.parametrize("name", OPERATORS)
def test_is_differentiable(name):
    make, shape, _ = OPERATORS[name]
    a = make()
    x = random(*shape, dtype=torch.complex128 if a.complex_input else torch.float64).requires_grad_()
    (d,) = torch.autograd.grad((a(x) * (probe := random(*a(x).shape, dtype=a(x).dtype, seed=1)).conj()).real.sum(), x)
    torch.testing.assert_close(d, a.adjoint(probe, shape[-2:]))  # the derivative of Re <y, A x> is the adjoint at y
    assert torch.autograd.gradcheck(a, x, fast_mode=True)


@compiles
@pytest.mark.parametrize("name", OPERATORS)
def test_tangents_are_its_own_images(name):
    make, shape, _ = OPERATORS[name]
    a = make()
    kind = torch.complex128 if a.complex_input else torch.float64
    x, u = random(*shape, dtype=kind), random(*shape, dtype=kind, seed=1)
    y, tangent = torch.func.jvp(a, (x,), (u,))[:2]
    torch.testing.assert_close(tangent, a(u))
    v = random(*y.shape, dtype=y.dtype, seed=2)
    torch.testing.assert_close(
        torch.func.jvp(lambda y: a.adjoint(y, shape[-2:]), (y,), (v,))[1], a.adjoint(v, shape[-2:])
    )
    torch.testing.assert_close(a(x), y)  # nothing of the transform is left behind


@compiles
def test_fourier_of_a_real_image_compiles_as_one_graph():
    a, x = Fourier(some(6, 5)), random(2, 1, 6, 5)
    compiled = torch.compile(a, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), a(x))


def alone(make, i):
    """The operator with the mask, kernel or maps of image i, where each image has its own."""
    a = make()
    for module in a.modules():
        for name, buffer in list(module._buffers.items()):
            if name in ("mask", "kernel", "sensitivities") and buffer is not None and len(buffer) > 1:
                setattr(module, name, buffer[i : i + 1])
    return a


def at_an_odd_address(x):
    return x.new_empty(x.numel() + 1)[1:].view(x.shape).copy_(x)


@pytest.mark.parametrize("backend", ["compiled", "reference"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", OPERATORS)
def test_image_of_a_batch_has_the_bits_it_has_alone(name, dtype, backend, monkeypatch):
    if backend == "reference":
        for family in ("block_product", "dwt2", "radon"):
            use_definitions(family, monkeypatch)
    make, shape, _ = OPERATORS[name]
    whole = make().to(dtype)
    own = any(len(t) > 1 for n, t in whole.named_buffers() if n in ("mask", "kernel", "sensitivities"))
    kind = dtype.to_complex() if whole.complex_input else dtype
    x = random(shape[0] if own else 5, *shape[1:], dtype=kind)
    y = whole(x)
    back = whole.adjoint(y, shape[-2:])
    for i in range(len(x)):
        a = alone(make, i).to(dtype)
        for one in (x[i : i + 1].clone(), at_an_odd_address(x[i : i + 1])):
            assert torch.equal(a(one), y[i : i + 1])
        for one in (y[i : i + 1].clone(), at_an_odd_address(y[i : i + 1])):
            assert torch.equal(a.adjoint(one, shape[-2:]), back[i : i + 1])


def use_definitions(family, monkeypatch):
    """What FASTRECON_BACKEND=reference does, for the raw ops of a family."""
    module = importlib.import_module(f"fastrecon.ops.{family}")
    for attribute, op in list(vars(module).items()):
        if isinstance(op, torch._ops.OpOverloadPacket):
            monkeypatch.setattr(module, attribute, registry.implementation(op.__name__, "reference"))


@pytest.mark.parametrize("side", [16, 32, 64, 256])
@pytest.mark.parametrize("boundary", ["circular", "zero"])
def test_blurred_and_measured_images_have_the_same_bits_in_any_batch(side, boundary):
    blur, fourier = Blur(gaussian_kernel(2.0, 13), boundary), Fourier(some(side, side), sensitivities=coil_maps(side))
    x = random(3, 1, side, side, dtype=torch.float32)
    for a in (blur, fourier):
        y = a(x)
        back = a.adjoint(y)
        for i in range(3):
            assert torch.equal(a(x[i : i + 1]), y[i : i + 1])
            assert torch.equal(a.adjoint(y[i : i + 1]), back[i : i + 1])


def coil_maps(side):
    return random(2, side, side, dtype=torch.complex64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("size", [(5, 9), (64, 128), (100, 17)], ids=str)
def test_codes_have_the_same_bits_in_any_batch(size, dtype):
    a = Dictionary(random(*size, dtype=dtype))
    for shape in ((33, size[1]), (3, 11, size[1]), (2, 3, 4, size[1])):
        z = random(*shape, dtype=dtype)
        y = a(z)
        torch.testing.assert_close(y, z @ a.atoms.T)
        assert torch.equal(a(z[:1]), y[:1])
        assert torch.equal(a(z[-1:]), y[-1:])
        assert torch.equal(a.adjoint(y[:1]), a.adjoint(y)[:1])


@pytest.mark.parametrize("name", OPERATORS)
def test_empty_batches(name):
    make, shape, _ = OPERATORS[name]
    a = make()
    x = random(*shape, dtype=torch.complex128 if a.complex_input else torch.float64)
    y, back = a(x), a.adjoint(a(x), shape[-2:])
    a = alone(make, 0) if len(x) > 1 else a
    empty = a(x[:0].requires_grad_())
    assert empty.shape == (0, *y.shape[1:])
    assert empty.dtype == y.dtype
    assert empty.requires_grad
    returned = a.adjoint(y[:0], shape[-2:])
    assert returned.shape == (0, *back.shape[1:])
    assert returned.dtype == back.dtype
    assert a.norm((0, *shape[1:])) == pytest.approx(a.norm((1, *shape[1:])))


def test_masks_and_kernels_of_an_empty_batch():
    x = torch.zeros(0, 1, 8, 8)
    for a in (Inpainting(x), Fourier(x), Blur(torch.zeros(0, 1, 3, 3))):
        assert a(x).shape == a.adjoint(a(x)).shape == x.shape
        assert a.norm() == 0


OWNED = {  # how an operator is made of an array, its name for it, and the array
    "inpainting": (Inpainting, "mask", np.ones((6, 5), np.float32)),
    "fourier": (Fourier, "mask", np.ones((6, 5), np.float32)),
    "maps": (lambda s: Fourier(torch.ones(6, 5), sensitivities=s), "sensitivities", np.ones((2, 6, 5), np.complex64)),
    "blur": (Blur, "kernel", np.ones((3, 5), np.float32)),
    "block_sensing": (lambda p: BlockSensing(p, 3), "phi", np.ones((2, 9), np.float32)),
    "dictionary": (Dictionary, "atoms", np.ones((6, 5), np.float32)),
}


@pytest.mark.parametrize("name", OWNED)
def test_keeps_what_it_was_given(name):
    make, attribute, array = OWNED[name]
    for given in (array.copy(), torch.from_numpy(array.copy())):
        a = make(given)
        given[:] = 0
        assert getattr(a, attribute).real.min() == 1
        assert list(a.state_dict())[-1] == attribute
        assert not list(a.parameters())
    frozen = array.copy()
    frozen.flags.writeable = False
    for other in (frozen, array[::-1], array.astype(array.dtype.newbyteorder(">")), array.tolist()):
        assert getattr(make(other), attribute).real.min() == 1


@pytest.mark.parametrize("name", OWNED)
def test_parameters_are_learned(name):
    make, attribute, array = OWNED[name]
    p = torch.nn.Parameter(torch.from_numpy(array.copy()))
    a = make(p)
    assert getattr(a, attribute) is p
    assert [n for n, _ in a.named_parameters()] == [attribute]
    x = torch.ones(1, 1, 6, 5) if name != "dictionary" else torch.ones(2, 5)
    with torch.no_grad():
        a(x)  # keeps nothing that has no gradient
    a(x).abs().sum().backward()
    assert p.grad is not None
    assert p.grad.abs().max() > 0
    other = copy.deepcopy(a)
    assert torch.equal(other(x), a(x))
    assert next(other.parameters()) is not p
    with torch.no_grad():
        p.mul_(2)
        torch.testing.assert_close(a(x), 2 * other(x))
    before = a(x)
    p.data.copy_(p.data * 2)
    torch.testing.assert_close(a(x), 2 * before)
    with torch.no_grad():
        before = a(x)
        p.data.copy_(p.data * 2)
        torch.testing.assert_close(a(x), 2 * before)


@pytest.mark.parametrize("name", OWNED)
def test_an_operator_made_and_used_in_inference_mode_can_be_trained_with(name):
    make, _, array = OWNED[name]
    x = torch.ones(1, 1, 6, 5) if name != "dictionary" else torch.ones(2, 5)
    with torch.inference_mode():
        a = make(array)
        a(x)
    with torch.inference_mode():
        a(x)
    x.requires_grad_()
    a(x).abs().sum().backward()
    assert x.grad is not None
    assert torch.equal(pickle.loads(pickle.dumps(a))(x), a(x))
    assert a.double()(x.double()).dtype in (torch.float64, torch.complex128)


def test_a_blur_used_in_inference_mode_first():
    a, x = Blur(random(3, 3)), random(1, 1, 6, 6).requires_grad_()
    with torch.inference_mode():
        a(x)
    assert torch.autograd.gradcheck(a, x)


def test_a_blur_keeps_the_transforms_of_few_sizes():
    a = Blur(random(3, 3))
    for side in range(3, 40):
        a(random(1, 1, side, side))
    assert len(a._transfer.entries) <= a._transfer.limit < 37
    a.float()
    assert len(a._transfer.entries) == 0
    k = a.transfer((8, 8), torch.float32)
    assert a.transfer((8, 8), torch.float32) is k
    a.kernel.data.zero_()
    assert a.transfer((8, 8), torch.float32).abs().max() == 0


@compiles
def test_functional_transforms_of_blur():
    a, x = Blur(random(3, 3)), random(3, 1, 6, 6)
    kernels = random(3, 1, 1, 3, 3)
    many = torch.func.vmap(lambda k, x: torch.func.functional_call(a, {"kernel": k}, x[None]))(kernels, x)
    for k, one, y in zip(kernels, x, many, strict=True):
        torch.testing.assert_close(Blur(k)(one[None]), y)
    _, tangent = torch.func.jvp(lambda k: torch.func.functional_call(a, {"kernel": k}, x), (a.kernel,), (kernels[0],))
    torch.testing.assert_close(tangent, Blur(kernels[0])(x))
    (d,) = (torch.func.grad(lambda x: a(x).square().sum())(x),)
    torch.testing.assert_close(d, 2 * a.adjoint(a(x)))


@pytest.mark.parametrize(("h", "w"), [(30, 45), (7, 8), (5, 9)])
def test_wavelets_of_any_size(h, w):
    x, a = random(2, 1, h, w), Wavelet("sym4", 3)
    c = a(x)
    assert c.shape == (2, 1, h + -h % 8, w + -w % 8)
    torch.testing.assert_close(a.adjoint(c, (h, w)), x)
    torch.testing.assert_close(c.norm(), x.norm())
    sized = Wavelet("sym4", 3, (h, w))
    assert torch.equal(sized.adjoint(c), a.adjoint(c, (h, w)))
    assert not sized.unitary
    assert Wavelet("sym4", 3, (16, 8)).unitary
    a = Inpainting(some(h, w)) @ Wavelet("sym4", 3).T
    assert a(c).shape == x.shape
    assert a.adjoint(x).shape == c.shape


@pytest.mark.parametrize("a", ["inpainting", "fourier", "radon", "blur", "sensing"])
def test_solvers_of_wavelet_coefficients_of_any_size(a):
    size = (30, 45)
    operator, w = {
        "inpainting": (Inpainting(some(*size)), Wavelet()),
        "fourier": (Fourier(some(*size)), Wavelet()),
        "radon": (Radon(size, 20, pixel=1 / 45), Wavelet()),
        "blur": (Blur(gaussian_kernel(1.0, 5, torch.float64)), Wavelet(size=size)),
        "sensing": (sensing(), Wavelet(size=size)),
    }[a]
    y = operator(torch.rand(2, 1, *size, dtype=torch.float64))
    c, report = FISTA(operator @ w.T, 1e-3)(y, iterations=30)
    assert c.shape == (2, 1, 32, 48)
    assert (report.objective < 0.5 * FISTA(operator @ w.T, 1e-3).objective(0 * c, y)).all()
    assert w.adjoint(c, size).shape[2:] == size


WRONG = [None, "image", [1.0, 2.0], 3, {}, torch.float32]
ANY = {  # operators of images [1, 1, 8, 8] in float32
    "inpainting": lambda: Inpainting(torch.ones(8, 8)),
    "fourier": lambda: Fourier(torch.ones(8, 8)),
    "blur": lambda: Blur(torch.ones(3, 3)),
    "radon": lambda: Radon((8, 8), 4, 9),
    "wavelet": lambda: Wavelet(),
    "block_sensing": lambda: BlockSensing(torch.ones(3, 16), 4),
    "dictionary": lambda: Dictionary(torch.ones(3, 8)),
    "composition": lambda: Blur(torch.ones(3, 3)) @ Wavelet().T,
    "adjoint": lambda: Inpainting(torch.ones(8, 8)).T,
}


@pytest.mark.parametrize("name", ANY)
def test_what_is_no_image_is_named(name):
    a = ANY[name]()
    for wrong in WRONG:
        for call in (a, a.adjoint):
            with pytest.raises(ValueError, match=r"^\w+: [xyz]: expected .*, got "):
                call(wrong)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float16, torch.bfloat16, torch.complex32], ids=str)
@pytest.mark.parametrize("name", ["fourier", "blur", "radon", "block_sensing", "dictionary"])
@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_numbers_of_another_kind_are_named(name, dtype):
    a = ANY[name]()
    x = torch.ones(1, 1, 8, 8).to(dtype)
    for call in (a, a.adjoint):
        with pytest.raises(ValueError, match=r"^\w+: [xyz]: expected .*, got .*" + str(dtype).removeprefix("torch.")):
            call(x)


@pytest.mark.parametrize("name", [n for n in ANY if n != "dictionary"])
def test_dimensions_are_named(name):
    a = ANY[name]()
    for shape in ((8, 8), (1, 8, 8), (1, 1, 1, 8, 8), ()):
        for call in (a, a.adjoint):
            with pytest.raises(ValueError, match=r"^\w+: [xyzc]: expected .*, got "):
                call(torch.ones(shape))


@pytest.mark.parametrize("name", OWNED)
def test_what_no_operator_is_made_of_is_named(name):
    make, attribute, array = OWNED[name]
    masked = np.ma.masked_array(array, mask=array > 0)
    nothing = () if name == "maps" else (None,)  # one coil
    for wrong in (*nothing, "array", {}, [[1.0], [1.0, 2.0]], object(), 3.0, masked, array[None, None, None], array[0]):
        with pytest.raises(ValueError, match=rf"^\w+: {attribute}: expected .*, got "):
            make(wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda a: a.norm((1, 1, 8, 8), tol=float("nan")), "norm: tol: expected a number >= 0, got nan"),
        (lambda a: a.norm((1, 1, 8, 8), max_iterations=0), "norm: max_iterations: expected an integer >= 1, got 0"),
        (lambda a: a.norm((1, 1, 8.0, 8)), "norm: shape: expected the shape of an input"),
        (lambda a: a.adjoint(torch.ones(1, 1, 8, 8), (8,)), r"Flip: size: expected \(H, W\), two integers, got \(8,\)"),
        (lambda a: a @ 3, "A @ B: inner: expected an operator, got int"),
        (lambda _: Blur(torch.ones(3, 3)).adjoint(torch.ones(1, 1, 8, 8), (8, 9)), r"Blur: size: expected \(8, 8\)"),
        (lambda _: BlockSensing(torch.ones(2, 9), 3.0), "BlockSensing: block: expected a number of pixels >= 1"),
        (lambda _: BlockSensing(torch.ones(2, 9), -3), "BlockSensing: block: expected a number of pixels >= 1"),
        (lambda _: Fourier(torch.ones(4, 4), centred=2), "Fourier: centred: expected True, False or 'both', got 2"),
        (lambda _: Blur(torch.ones(3, 3), ["zero"]), "Blur: boundary: expected circular or zero"),
        (lambda _: gaussian_kernel(float("nan"), 3), "gaussian_kernel: sigma: expected a number > 0, got nan"),
        (lambda _: gaussian_kernel(float("inf"), 3), "gaussian_kernel: sigma: expected a number > 0, got inf"),
        (lambda _: gaussian_kernel(1.0, 3.5), "gaussian_kernel: side: expected an odd number >= 1, got 3.5"),
        (lambda _: gaussian_kernel(True, 3), "gaussian_kernel: sigma: expected a number > 0, got True"),
        (lambda _: measurements(float("nan")), "measurements: ratio: expected a number in"),
        (lambda _: measurements(10, -1), "measurements: n: expected an integer >= 1, got -1"),
        (lambda _: random_phi(2.5, 9), "random_phi: m: expected 1 to n = 9 rows, got 2.5"),
        (lambda _: random_phi(2, 9, -1), "random_phi: seed: expected an integer in"),
    ],
)
def test_numbers_out_of_range_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong(Flip())


def test_inpainting_and_wavelet_keep_the_kind_of_the_image():
    a = Inpainting(torch.ones(8, 8, dtype=torch.bool)) @ Wavelet("haar", 1).T
    for dtype in (torch.float32, torch.float64, torch.complex64, torch.complex128):
        assert a(torch.ones(1, 1, 8, 8, dtype=dtype)).dtype == dtype
    assert Wavelet("haar", 1).unitary
    assert not a.unitary


@pytest.mark.parametrize("centred", [False, True])
def test_fourier_is_the_unitary_transform_on_the_full_grid(centred):
    x, mask = random(2, 1, 6, 5, dtype=torch.complex128), some(6, 5)
    y = Fourier(mask, centred)(x)
    k = torch.fft.fft2(x, norm="ortho")
    expected = torch.fft.fftshift(k, (-2, -1)) if centred else k
    torch.testing.assert_close(y, mask * expected)
    flat = Fourier(torch.ones(6, 5), centred)(torch.ones(1, 1, 6, 5, dtype=torch.complex128))[0, 0]
    assert flat.abs().argmax().item() == ((6 // 2) * 5 + 5 // 2 if centred else 0)  # where the zero frequency lies
    torch.testing.assert_close(flat.abs().max(), torch.tensor(30.0, dtype=torch.float64).sqrt())
    assert Fourier(mask)(x.to(torch.complex64)).dtype == torch.complex64
    assert Fourier(mask)(x.real.float()).dtype == torch.complex64


@pytest.mark.parametrize("convert", [lambda a: a.to(torch.float32), lambda a: a.float(), lambda a: a.to("cpu")])
def test_maps_stay_complex_when_converted(convert):
    maps, x = random(3, 6, 4, dtype=torch.complex128), random(1, 1, 6, 4, dtype=torch.complex128)
    a = Fourier(some(6, 4), sensitivities=maps)
    y = a(x)
    b = convert(a)
    torch.testing.assert_close(b(x), y, rtol=1e-6, atol=1e-6)
    assert b.sensitivities.is_complex()


def test_fourier_with_several_coils():
    maps = random(3, 6, 4, dtype=torch.complex128)
    x, mask = random(2, 1, 6, 4, dtype=torch.complex128), some(6, 4)
    y = Fourier(mask, sensitivities=maps)(x)
    for c in range(3):
        torch.testing.assert_close(y[:, c : c + 1], Fourier(mask)(maps[c] * x))


@pytest.mark.parametrize("boundary", ["circular", "zero"])
def test_blur_is_a_convolution(boundary):
    kernel, x = random(3, 5), random(2, 2, 7, 9)
    y = Blur(kernel, boundary)(x)
    mode = {"circular": "circular", "zero": "constant"}[boundary]
    padded = torch.nn.functional.pad(x, (2, 2, 1, 1), mode=mode).flatten(0, 1)[:, None]
    expected = torch.nn.functional.conv2d(padded, kernel.flip(0, 1)[None, None])  # conv2d correlates
    torch.testing.assert_close(y, expected.view(x.shape))
    z = torch.complex(x, x.flip(-1))
    torch.testing.assert_close(Blur(kernel, boundary)(z).imag, Blur(kernel, boundary)(x.flip(-1)))


def test_blur_notices_a_changed_kernel():
    a, x = Blur(random(3, 3)), random(1, 1, 6, 6)
    before = a(x)
    a.kernel.mul_(2)
    torch.testing.assert_close(a(x), 2 * before)


def test_gaussian_kernel():
    k = gaussian_kernel(2.0, 13, torch.float64)
    assert k.shape == (13, 13)
    assert k.sum().item() == pytest.approx(1)
    assert (k[6, 6] / k[6, 8]).item() == pytest.approx(math.exp(0.5))
    torch.testing.assert_close(k, k.T)


def test_norm_by_power_iteration_needs_a_shape():
    assert Flip().norm((1, 1, 5, 6)) == pytest.approx(3)
    with pytest.raises(ValueError, match="norm: shape: expected the shape of an input"):
        Flip().norm()


def test_transposing_twice_gives_the_operator_back():
    a = sensing()
    assert a.T.T is a


@pytest.mark.parametrize(
    ("ratio", "m"), [(1, 10), (4, 43), (10, 109), (25, 272), (30, 327), (40, 436), (50, 545), (100, 1089)]
)
def test_measurements_are_the_published_numbers(ratio, m):
    assert measurements(ratio) == m


@pytest.mark.parametrize(("ratio", "m"), [(10, 102), (30, 307)])
def test_measurements_of_32_pixel_blocks(ratio, m):
    assert measurements(ratio, 1024) == m


def test_phi_has_orthonormal_rows_and_follows_its_seed():
    phi = random_phi(109, 1089, seed=5)
    torch.testing.assert_close(phi @ phi.T, torch.eye(109, dtype=torch.float64), rtol=0, atol=1e-13)
    assert torch.equal(phi, random_phi(109, 1089, seed=5))
    assert (phi - random_phi(109, 1089, seed=6)).abs().max() > 0.01
    # the first row is the first column of the seeded Gaussian, scaled: the sign is fixed
    gaussian = np.random.RandomState(5).standard_normal((1089, 109))[:, 0]
    np.testing.assert_allclose(phi[0], gaussian / np.linalg.norm(gaussian), atol=1e-14)


def test_block_sensing_block_by_block():
    a, x = sensing(m=5, block=3), torch.rand(2, 1, 7, 8, dtype=torch.float64)
    y = a(x)
    assert y.shape == (2, 3, 3, 5)
    padded = torch.zeros(2, 9, 9, dtype=torch.float64)
    padded[:, :7, :8] = x[:, 0]
    for i, j in [(0, 0), (1, 2), (2, 1), (2, 2)]:
        block = padded[:, 3 * i : 3 * i + 3, 3 * j : 3 * j + 3].reshape(2, 9)
        torch.testing.assert_close(y[:, i, j], block @ a.phi.T)
    torch.testing.assert_close(a(a.adjoint(y)), y)  # Phi Phi^T = I
    assert torch.equal(a.adjoint(y, (7, 8)), a.adjoint(y)[..., :7, :8])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_block_sensing_gives_the_same_bits_in_any_batch(dtype):
    a, x = BlockSensing(random_phi(272, 1089).to(dtype)), torch.rand(5, 1, 70, 101, dtype=dtype)
    y = a(x)
    back = a.adjoint(y, (70, 101))
    for i in (0, 3, 4):
        assert torch.equal(a(x[i : i + 1]), y[i : i + 1])
        assert torch.equal(a.adjoint(y[i : i + 1], (70, 101)), back[i : i + 1])
        order = torch.tensor([4, i, 1])
        assert torch.equal(a(x[order])[1], y[i])


def test_block_sensing_is_differentiable_in_image_and_matrix():
    phi = torch.nn.Parameter(random_phi(3, 4))
    a = BlockSensing(phi, 2)
    assert [n for n, _ in a.named_parameters()] == ["phi"]
    x = torch.rand(2, 1, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, _: a.adjoint(a(x), (3, 4)), (x, phi))


def test_block_sensing_with_and_without_gradients_agree():
    a, x = sensing(), torch.rand(3, 1, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(a(x), a(x.clone().requires_grad_()))


def test_arrays_are_answered_in_kind():
    a, x = sensing(), np.random.default_rng(0).random((1, 1, 5, 6))
    y = a(x)
    assert isinstance(y, np.ndarray)
    assert isinstance(a.adjoint(y, (5, 6)), np.ndarray)
    np.testing.assert_array_equal(y, a(torch.from_numpy(x)).numpy())
    np.testing.assert_array_equal(BlockSensing(a.phi.numpy(), 4)(x), y)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda a: a(torch.rand(2, 3, 4, 4)), r"BlockSensing: x: expected images \[B, 1, H, W\], got \(2, 3, 4, 4\)"),
        (lambda a: a(torch.rand(1, 1, 4, 4)), "BlockSensing: x: expected float64 on cpu, got .*float32"),
        (lambda a: a.adjoint(torch.rand(1, 1, 1, 8)), r"BlockSensing: y: expected measurements \[B, rows, cols, 7\]"),
        (lambda a: a.adjoint(a(torch.rand(1, 1, 8, 8).double()), (9, 8)), r"size: expected \(H, W\) of .* 2x2 blocks"),
        (lambda a: BlockSensing(a.phi, 5), r"BlockSensing: phi: expected a real matrix \[m, 25\]"),
        (lambda a: random_phi(17, 16), "random_phi: m: expected 1 to n = 16 rows, got 17"),
        (lambda a: measurements(0), "measurements: ratio: expected a number in"),
    ],
)
def test_wrong_input_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong(sensing())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Inpainting(torch.ones(4)), r"Inpainting: mask: expected a mask \[H, W\], or one for each image"),
        (lambda: Inpainting(-torch.ones(4, 4)), "Inpainting: mask: expected finite numbers >= 0"),
        (lambda: Inpainting(torch.ones(4, 4) * 1j), "Inpainting: mask: expected a real or boolean mask"),
        (lambda: Inpainting(torch.ones(4, 4))(torch.ones(1, 1, 4, 5)), "Inpainting: x: expected 4x4 as the mask"),
        (lambda: Inpainting(torch.ones(2, 1, 4, 4))(torch.ones(3, 1, 4, 4)), "Inpainting: x: expected a batch of 2"),
        (lambda: Fourier(torch.ones(4, 4))(torch.ones(1, 2, 4, 4)), r"Fourier: x: expected images \[B, 1, H, W\]"),
        (lambda: Fourier(torch.ones(4, 4)).adjoint(torch.ones(1, 1, 4, 4)), "Fourier: y: expected complex k-space"),
        (lambda: Fourier(torch.ones(4, 4), sensitivities=torch.ones(2, 4, 4)), "Fourier: sensitivities: expected comp"),
        (lambda: Fourier(torch.full((4, 4), float("nan"))), "Fourier: mask: expected finite numbers >= 0"),
        (lambda: Blur(torch.ones(4, 3)), "Blur: kernel: expected .* odd h and w"),
        (lambda: Blur(torch.ones(3, 3), "reflect"), "Blur: boundary: expected circular or zero, got 'reflect'"),
        (lambda: Blur(torch.ones(5, 5))(torch.ones(1, 1, 4, 8)), "Blur: x: expected an image at least as large"),
        (lambda: Blur(torch.ones(2, 1, 3, 3))(torch.ones(3, 1, 4, 8)), "Blur: x: expected a batch of 2"),
        (
            lambda: Wavelet("sym4", 3)(torch.ones(1, 1, 12, 4)),
            "Wavelet: x: expected images of more than 4 pixels a side",
        ),
        (lambda: Wavelet("sym4", 31), r"Wavelet: level: expected an integer in \[0, 30\], got 31"),
        (lambda: Wavelet(["sym4"]), "Wavelet: name: expected an orthonormal wavelet"),
        (lambda: Wavelet(size=(8.5, 8)), r"Wavelet: size: expected \(H, W\), two integers, got \(8.5, 8\)"),
        (lambda: Wavelet(size=(9, 8))(torch.ones(1, 1, 8, 8)), r"Wavelet: x: expected images of \(9, 8\)"),
        (lambda: Wavelet().adjoint(torch.ones(1, 1, 16, 8), (8, 8)), r"Wavelet: y: expected .*\[B, C, 8, 8\]"),
        (lambda: Wavelet("bior4.4"), "wavelet: expected an orthonormal wavelet"),
        (lambda: gaussian_kernel(1.0, 4), "gaussian_kernel: side: expected an odd number"),
    ],
)
def test_wrong_masks_kernels_and_images_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


@pytest.mark.parametrize("size", [(6, 4), (5, 7), (1, 3)], ids=str)
def test_fourier_with_both_sides_centred_is_that_of_other_packages(size):
    x, mask = random(2, 1, *size, dtype=torch.complex128), some(*size)
    axes = (-2, -1)
    expected = torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(x, axes), norm="ortho"), axes)
    a = Fourier(mask, centred="both")
    torch.testing.assert_close(a(x), mask * expected)
    torch.testing.assert_close(Fourier(torch.ones(size), "both").adjoint(expected), x)
    middle = torch.zeros(1, 1, *size, dtype=torch.complex128)
    middle[..., size[0] // 2, size[1] // 2] = 1
    k = Fourier(torch.ones(size), "both")(middle)
    torch.testing.assert_close(k, torch.full_like(k, 1 / math.prod(size) ** 0.5))  # the origin: no phase at all
    maps = random(3, *size, dtype=torch.complex128)
    y = Fourier(mask, "both", maps)(x)
    torch.testing.assert_close(y[:, 1:2], Fourier(mask, "both")(maps[1] * x))


PER_IMAGE = {
    "inpainting": (lambda t: Inpainting(t["mask"]), torch.float64),
    "fourier": (lambda t: Fourier(t["mask"], sensitivities=t["maps"]), torch.complex128),
    "fourier, shared maps": (lambda t: Fourier(t["mask"], "both", t["maps"][0]), torch.complex128),
    "blur": (lambda t: Blur(t["kernel"], "zero"), torch.float64),
    "composition": (lambda t: Inpainting(t["mask"]) @ Blur(t["kernel"]) @ Wavelet("haar", 1).T, torch.float64),
    "adjoint": (lambda t: (Inpainting(t["mask"]) @ Blur(t["kernel"])).T, torch.float64),
}


@pytest.mark.parametrize("name", PER_IMAGE)
@pytest.mark.parametrize("which", [[1], [2, 0, 2], [], [True, False, True]], ids=str)
def test_the_operator_of_some_images(name, which):
    make, dtype = PER_IMAGE[name]
    tensors = {
        "mask": some(3, 1, 6, 4), "kernel": random(3, 1, 3, 3), "maps": random(3, 2, 6, 4, dtype=torch.complex128)
    }  # fmt: skip
    a, x = make(tensors), random(3, 1, 6, 4, dtype=dtype)
    y, index = a(x), torch.tensor(which, dtype=None if which else torch.int64)
    part = a.take(index)
    assert type(part) is type(a)
    assert torch.equal(part(x[index]), y[index])
    assert torch.equal(part.adjoint(y[index]), a.adjoint(y)[index])
    assert torch.equal(a(x), y)


def test_operators_that_all_images_share_are_taken_as_they_are():
    for a in (
        sensing(),
        Inpainting(some(5, 7)),
        Blur(random(3, 3)) @ Wavelet("haar", 1).T,
        coils().T.T.take(torch.tensor([1])),
    ):
        assert a.take(torch.tensor([0])) is a


def test_a_taken_operator_learns_what_it_was_taken_from():
    mask = torch.nn.Parameter(random(3, 1, 4, 4).abs())
    a = Inpainting(mask).take(torch.tensor([2]))
    a(torch.ones(1, 1, 4, 4, dtype=torch.float64)).sum().backward()
    assert mask.grad is not None
    assert mask.grad.flatten(1).sum(1).tolist() == [0, 0, 16]


@pytest.mark.parametrize("name", [n for n in OPERATORS if n not in ("dictionary",)])
def test_where_it_is_diagonal_it_is_that(name):
    make, shape, _ = OPERATORS[name]
    a, x = make(), random(*shape, dtype=torch.complex128 if make().complex_input else torch.float64)
    basis = a.diagonal(x)
    if basis is None:
        assert name not in ("inpainting", "fourier", "blur", "wavelet", "inpainting_of_wavelet", "fourier_of_wavelet")
        return
    k = basis.transform(x)
    torch.testing.assert_close(basis.inverse(k), x)
    gram = a.apply_adjoint(a.forward(x), shape[-2:])
    torch.testing.assert_close(basis.inverse(basis.factors.abs().square() * k), gram)
    torch.testing.assert_close(basis.measured(a(x)), basis.factors * k)


def test_rows_of_one_length():
    phi = random_phi(5, 16, 1)
    a = BlockSensing(3 * phi, 4)
    assert a.row_scale((8, 12)) == pytest.approx(9)
    assert a.row_scale((8, 11)) is None
    assert (a @ Wavelet("haar", 2).T).row_scale((8, 8)) == pytest.approx(9)
    assert (a @ Flip()).row_scale((8, 8)) is None
    a.phi[0] *= 1.01
    assert a.row_scale((8, 12)) is None
    assert BlockSensing(torch.nn.Parameter(phi), 4).row_scale((8, 12)) is None
    assert Wavelet("sym4", 3).T.row_scale((8, 8)) == 1


@pytest.mark.parametrize("orthonormal", [True, False])
def test_resolvent_of_blocks(orthonormal):
    phi = random_phi(9, 16) if orthonormal else torch.randn(9, 16, dtype=torch.float64)
    a, w = BlockSensing(phi, 4), torch.tensor([0.3, 20.0], dtype=torch.float64)
    for size in ((8, 12), (7, 10), (8, 11), (3, 4), (4, 2)):
        x = torch.rand(2, 1, *size, dtype=torch.float64)
        found = a.resolvent(x, w)
        torch.testing.assert_close(found + w.view(2, 1, 1, 1) * a.adjoint(a(found), size), x)
    assert BlockSensing(torch.nn.Parameter(phi), 4).resolvent(x, w) is None


def test_resolvent_of_a_window():
    """Exact where the window is all of the image; else a map near it, symmetric and positive definite."""
    blur, w = Blur(torch.rand(3, 5, dtype=torch.float64)), torch.tensor([0.3, 20.0], dtype=torch.float64)
    x, z = torch.randn(2, 2, 1, 9, 8, dtype=torch.float64)
    whole, part = Crop((9, 8), 0, 0, (9, 8)) @ blur, Crop((9, 8), 1, 2, (7, 5)) @ blur
    found = whole.resolvent(x, w)
    torch.testing.assert_close(found + w.view(2, 1, 1, 1) * whole.adjoint(whole(found)), x)
    assert torch.equal(part.resolvent(x, w), found)
    torch.testing.assert_close((found * z).sum(), (x * part.resolvent(z, w)).sum())
    assert (found * x).sum() > 0
    assert (Crop((9, 8), 1, 2, (7, 5)) @ Radon((9, 8), 3).T).resolvent(x, w) is None


def test_modules_can_still_be_applied_to():
    class Around(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a = sensing() @ Flip()

    seen = []
    Around().apply(lambda m: seen.append(type(m).__name__))
    assert seen == ["BlockSensing", "Flip", "Composition", "Around"]


@compiles
def test_operators_compile_and_export_through_their_border():
    a, x = Inpainting(some(8, 8)) @ Wavelet("haar", 2).T, random(1, 1, 8, 8)
    assert torch.equal(torch.compile(a, fullgraph=True, backend="aot_eager")(x), a(x))
    torch.testing.assert_close(torch.export.export(a, (x,)).module()(x), a(x))


def test_functions_are_given_what_they_take_in_the_precision_of_the_image():
    seen = []

    def flat(x):  # one image, of two dimensions
        h, w = x.shape
        seen.append(x.dtype)
        return np.asarray(x, np.float64).reshape(h * w) * 2

    a = Callables(flat, lambda y: 2 * y.reshape(4, 5), (4, 5))
    y = a(torch.ones(2, 1, 4, 5))
    assert (y.shape, y.dtype, set(seen)) == ((2, 20), torch.float32, {torch.float32})
    assert a.adjoint(y).shape == (2, 1, 4, 5)
    assert a.norm() == pytest.approx(2)
    assert isinstance(a(np.ones((2, 1, 4, 5), np.float32)), np.ndarray)
    batch = Inpainting(some(4, 5))  # takes batches only
    for shape in ((4, 5), (1, 4, 5), (1, 1, 4, 5)):
        a = Callables(batch, batch.adjoint, shape)
        assert torch.equal(a(torch.ones(2, 1, 4, 5)), batch(torch.ones(2, 1, 4, 5)))
        assert a.adjoint(torch.ones(2, 1, 4, 5)).shape == (2, 1, 4, 5)
    fft = Callables(
        lambda x: np.fft.fft2(x, norm="ortho"), lambda k: np.fft.ifft2(k, norm="ortho"), (4, 5), complex_input=True
    )
    assert fft(torch.ones(1, 1, 4, 5, dtype=torch.complex64)).dtype == torch.complex64
    assert fft.adjoint_test((1, 1, 4, 5)) < 1e-6


@pytest.mark.parametrize("shape", [(2, 4, 5), (2, 1, 4, 5)], ids=str)
def test_functions_that_take_anything_follow_the_shape_of_the_measurements(shape):
    a, y = Callables(lambda x: 2 * x, lambda y: 2 * y, (4, 5)), torch.ones(shape)
    x = a.adjoint(y)
    assert x.shape == (2, 1, 4, 5)
    assert a(x).shape == shape
    with pytest.raises(ValueError, match=r"Callables: y: expected \[B, 1, 4, 5\] or \[B, 4, 5\], got \(4, 5\)"):
        a.adjoint(torch.ones(4, 5))


def test_functions_of_a_batch_keep_each_image_its_own():
    mask = some(3, 1, 4, 5)
    a = Callables(lambda x: x * mask, lambda y: y * mask, (3, 1, 4, 5), dtype=torch.float64)
    x = random(3, 1, 4, 5)
    for which in (torch.tensor([1]), torch.tensor([2, 0]), torch.tensor([False, True, True])):
        part = a.take(which)
        assert torch.equal(part(x[which]), a(x)[which])
        if len(x[which]) > 1:
            last = torch.tensor([1])
            assert torch.equal(part.take(last).adjoint(x[which][last]), a.adjoint(x)[which][last])
    with pytest.raises(ValueError, match=r"Callables\.take: which: expected each image once"):
        a.take(torch.tensor([1, 1]))


def test_a_wrong_pair_of_functions_is_found():
    assert Callables(lambda x: x.roll(1, -1), lambda y: y.roll(1, -1), (1, 1, 4, 5)).adjoint_test((1, 1, 4, 5)) > 0.01


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Callables(1, abs, (4, 5)), "Callables: forward: expected a function, got int"),
        (lambda: Callables(abs, abs, (4,)), r"Callables: shape: expected \(H, W\), \(C, H, W\) or \(B, C, H, W\), got"),
        (lambda: Callables(abs, abs, (4, 0)), "Callables: shape: expected"),
        (lambda: Callables(abs, abs, (4, 5), dtype=int), "Callables: dtype: expected a real dtype"),
        (lambda: Callables(abs, abs, (4, 5))(torch.ones(1, 1, 4, 4)), r"Callables: x: expected images \[B, 1, 4, 5\]"),
        (
            lambda: Callables(lambda x: None, abs, (4, 5))(torch.ones(1, 1, 4, 5)),
            "Callables: forward: expected a tensor",
        ),
        (
            lambda: Callables(sum, abs, (1, 1, 4, 5))(torch.ones(3, 1, 4, 5)),
            r"Callables: forward: expected \[3, \.\.\.\] of",
        ),
        (
            lambda: Callables(abs, lambda y: y[:, :, :2], (1, 1, 4, 5)).adjoint(torch.ones(3, 1, 4, 5)),
            r"Callables: adjoint: expected \[3, 1, 4, 5\] of",
        ),
    ],
)
def test_wrong_functions_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


@pytest.mark.parametrize("centred", [True, "both"])
@pytest.mark.parametrize("size", [(8, 12), (7, 9), (1, 5)])
def test_fourier_without_gradients_is_the_same_to_rounding(size, centred):
    """Where products shift what is centred."""
    maps = torch.randn(2, 3, *size, dtype=torch.complex128)
    a = Fourier(torch.rand(2, 1, *size, dtype=torch.float64), centred=centred, sensitivities=maps)
    x, y = torch.randn(2, 1, *size, dtype=torch.complex128), torch.randn(2, 3, *size, dtype=torch.complex128)
    for function, t in ((a.forward, x), (a.apply_adjoint, y)):
        torch.testing.assert_close(function(t), function(t.clone().requires_grad_()), rtol=1e-13, atol=1e-14)
