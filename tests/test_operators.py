import math

import numpy as np
import pytest
import torch

from fastrecon.operators import BlockSensing, Dictionary, LinearOperator, measurements, random_phi


class Flip(LinearOperator):
    """Mirrors the image: no closed-form norm, no parameters."""

    def _forward(self, x):
        return 3 * x.flip(-1)

    def _adjoint(self, y, size):
        return 3 * y.flip(-1)


def sensing(m=7, block=4, dtype=torch.float64):
    return BlockSensing(random_phi(m, block * block, seed=1).to(dtype), block)


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
}


@pytest.mark.parametrize("name", OPERATORS)
def test_adjoint_is_the_adjoint(name):
    make, shape, _ = OPERATORS[name]
    assert make().adjoint_test(shape) < 1e-12


@pytest.mark.parametrize("name", OPERATORS)
def test_norm_is_the_largest_singular_value(name):
    make, shape, norm = OPERATORS[name]
    one = (1, *shape[1:])
    dense = torch.stack([make()(e.view(one)).flatten() for e in torch.eye(math.prod(one), dtype=torch.float64)])
    largest = torch.linalg.matrix_norm(dense, 2).item()
    assert make().norm(one) == pytest.approx(largest, rel=1e-5)
    if norm is not None:
        assert largest == pytest.approx(norm)


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
