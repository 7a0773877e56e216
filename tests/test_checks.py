"""The door of all public functions: what comes in, in which ranges, and what is refused in one line."""

import subprocess
import sys

import array_api_strict
import numpy as np
import pytest
import torch

from fastrecon import metrics, noise, ops, reconstruct
from fastrecon.checks import choice, flag, integer, number
from fastrecon.operators import Blur, Fourier, Inpainting, Radon, Wavelet

INF, NAN = float("inf"), float("nan")
ROWS = torch.rand(2, 6)
IMAGES = torch.rand(2, 1, 16, 16)
RAYS = ops.parallel_rays((16, 16), torch.tensor([0.0, 1.0]), 5, 1.0)
SPECTRUM = torch.complex(IMAGES, IMAGES)
CALLS = {  # of every op and metric with sound arguments; those under test are replaced by name
    "armijo": {"x": ROWS, "z": -ROWS, "grad": ROWS, "lam": 0.1, "curvature": torch.ones(2), "slack": 0.0},
    "block_product": {"blocks": torch.rand(2, 3, 4), "matrix": torch.rand(4, 5)},
    "dwt2": {"x": IMAGES},
    "idwt2": {"c": IMAGES},
    "feature_gradient": {"x": IMAGES, "weights": [torch.rand(4, 1, 3, 3)], "eps": 0.1},
    "feature_value": {"x": IMAGES, "weights": [torch.rand(4, 1, 3, 3)], "eps": 0.1},
    "fourier_consistency": {"k": SPECTRUM, "mask": torch.ones(16, 16), "y": SPECTRUM},
    "group_soft_threshold": {"g": IMAGES, "tau": 0.1},
    "ladmm_shrink": {"z": ROWS, "arg": ROWS[:, :4], "w": torch.rand(4, 6), "tau": 0.1},
    "ladmm_step": {
        "z": ROWS, "a": torch.rand(4, 6), "x": ROWS[:, :4], "e": ROWS[:, :4], "dual": ROWS[:, :4], "beta": 1.0,
        "w": 1.0, "tau": 0.1, "beta_next": 1.0,
    },
    "prox_gradient_step": {"x": ROWS, "grad": ROWS, "step": 0.1, "lam": 0.1},
    "prox_lp": {"x": ROWS, "lam": 0.1, "p": 0.5},
    "prox_tv": {"y": IMAGES, "lam": 0.1},
    "radon": {"x": IMAGES, "rays": RAYS},
    "radon_adjoint": {"y": torch.rand(1, 1, 2, 5), "rays": RAYS},
    "select_descent": {"u": ROWS, "v": ROWS, "phi_u": torch.ones(2), "phi_v": torch.ones(2)},
    "shrink_eps": {"grad_f": ROWS, "grad_r": ROWS, "eps": 0.1, "sigma": 1.0, "gamma": 0.5},
    "smoothed_l21": {"g": IMAGES, "eps": 0.1},
    "soft_threshold": {"x": ROWS, "tau": 0.1},
    "squares": {"x": ROWS},
    "rbf_unit": {
        "v": IMAGES, "filters": torch.rand(2, 1, 3, 3), "weights": torch.rand(2, 5), "spacing": 0.5, "sigma": 0.5,
    },
    "psnr": {"x": IMAGES, "ref": IMAGES},
    "ssim": {"x": IMAGES, "ref": IMAGES},
    "nmse_db": {"x": IMAGES, "ref": IMAGES},
    "relative_error": {"x": IMAGES, "ref": IMAGES},
}  # fmt: skip
ABOVE_0, LEAST_0 = (0, -1.0), (-1.0, -1e-300)
RANGES = {  # what lies outside of the range of every number
    ("armijo", "lam"): LEAST_0, ("armijo", "slack"): LEAST_0, ("armijo", "beta"): (0, 1, 2.0),
    ("armijo", "eta"): (0, 1, -0.5), ("armijo", "trials"): (0, 65, 1.0),
    ("dwt2", "level"): (-1, 1.0, 10**9, 63, 10**400), ("idwt2", "level"): (-1, 10**9),
    ("feature_gradient", "eps"): ABOVE_0, ("feature_gradient", "delta"): ABOVE_0,
    ("feature_value", "eps"): ABOVE_0, ("feature_value", "delta"): ABOVE_0,
    ("group_soft_threshold", "tau"): LEAST_0, ("ladmm_shrink", "tau"): LEAST_0, ("ladmm_step", "tau"): LEAST_0,
    ("ladmm_step", "beta"): ABOVE_0, ("ladmm_step", "w"): ABOVE_0, ("ladmm_step", "beta_next"): LEAST_0,
    ("prox_gradient_step", "step"): ABOVE_0, ("prox_gradient_step", "lam"): LEAST_0, ("prox_lp", "lam"): LEAST_0,
    ("prox_lp", "p"): (-0.1, 1.1), ("prox_tv", "lam"): LEAST_0,
    ("prox_tv", "tol"): LEAST_0, ("prox_tv", "iterations"): (-1, 1.0, 10**10),
    ("shrink_eps", "eps"): ABOVE_0, ("shrink_eps", "sigma"): ABOVE_0,
    ("shrink_eps", "gamma"): (0, 1, 2.0), ("smoothed_l21", "eps"): ABOVE_0, ("soft_threshold", "tau"): LEAST_0,
    ("psnr", "peak"): ABOVE_0, ("ssim", "data_range"): ABOVE_0,
}  # fmt: skip
NEVER = (NAN, INF, -INF, True, "1", [0.5], 1j, {}, 10**400)
TENSORS = [(name, k) for name, call in CALLS.items() for k, v in call.items() if isinstance(v, torch.Tensor)]


def call(name, **change):
    return getattr(ops if hasattr(ops, name) else metrics, name)(**CALLS[name] | change)


@pytest.mark.parametrize("name", CALLS)
def test_sound_arguments_pass(name):
    call(name)


@pytest.mark.parametrize(("name", "argument"), RANGES)
def test_numbers_out_of_range_are_refused(name, argument):
    for value in (*RANGES[name, argument], *NEVER, None):
        with pytest.raises(ValueError, match=rf"^{name}: (c|x|{argument}): expected .*, got "):
            call(name, **{argument: value})


@pytest.mark.parametrize(("name", "argument"), TENSORS)
@pytest.mark.parametrize("value", [[1.0, 2.0], "image.png", object(), 3.5], ids=["list", "text", "object", "number"])
def test_what_is_no_tensor_is_refused(name, argument, value):
    with pytest.raises(ValueError, match=rf"^{name}: {argument}: expected a tensor or an array, got "):
        call(name, **{argument: value})


@pytest.mark.parametrize(("name", "argument"), TENSORS)
def test_masked_arrays_are_refused(name, argument):
    arrays = {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in CALLS[name].items()}
    masked = np.ma.masked_array(arrays[argument], mask=np.zeros(arrays[argument].shape, bool))
    for given in (arrays, CALLS[name]):  # beside arrays and beside tensors
        with pytest.raises(ValueError, match=rf"^{name}: {argument}: expected an array without a mask"):
            call(name, **given | {argument: masked})
    with pytest.raises(ValueError, match=r"^Inpainting: x: expected an array without a mask"):
        Inpainting(torch.ones(16, 16))(np.ma.masked_array(IMAGES.numpy()))


class WithUnits(np.ndarray):
    pass


class Table:
    """Like a data frame: it can become an array, and is none."""

    def __array__(self, *_):
        return np.ones(3)


@pytest.mark.parametrize(
    ("x", "got"),
    [
        (np.array([1.0, None]), r"ndarray \(2,\) object"),
        (np.array(["a"]), r"ndarray \(1,\) <U1"),
        (np.zeros(2, [("a", float)]), r"ndarray \(2,\) \[\('a'"),
        (np.zeros(2, np.longdouble), r"ndarray \(2,\) "),
        (np.zeros(2, "datetime64[s]"), r"ndarray \(2,\) datetime64"),
        (np.ones(3).view(WithUnits), r"WithUnits \(3,\) float64"),
        (Table(), "Table "),
        (None, "None"),
        (5, "5"),
    ],
    ids=lambda v: str(type(v)),
)
def test_arrays_that_are_no_plain_numbers_are_refused(x, got):
    for arguments in ({"x": x}, {"x": torch.ones(3), "tau": x}):
        if "tau" in arguments and isinstance(x, int):
            continue
        with pytest.raises(ValueError, match=rf"^soft_threshold: (x|tau): expected .*, got {got}"):
            ops.soft_threshold(**{"tau": 0.1} | arguments)


def test_arrays_beside_tensors():
    x, tau = torch.tensor([3.0, -1.0]), np.array([1.0, 2.0])
    assert ops.soft_threshold(x, tau).tolist() == [2, 0]
    assert isinstance(ops.soft_threshold(x.numpy(), torch.from_numpy(tau)), np.ndarray)
    value, _ = ops.feature_gradient(IMAGES, [np.ones((4, 1, 3, 3), np.float32)], np.full(2, 0.1))
    assert torch.equal(value, ops.feature_gradient(IMAGES, [torch.ones(4, 1, 3, 3)], 0.1)[0])
    big, little = np.arange(3.0).astype(">f8"), np.arange(3.0)
    assert np.array_equal(ops.soft_threshold(big, 1.0), ops.soft_threshold(little, 1.0))
    assert np.array_equal(ops.soft_threshold(np.asfortranarray(np.eye(3))[::-1], 0.5), np.eye(3)[::-1] / 2)
    with pytest.raises(ValueError, match="soft_threshold: gradients: expected no tensor that requires them beside"):
        ops.soft_threshold(little, torch.ones(3, requires_grad=True))


@pytest.mark.parametrize("name", CALLS)
def test_arrays_of_the_standard(name):
    """array-api-strict has what the array API standard has and nothing more."""

    def strict(value):
        if isinstance(value, list):
            return [strict(v) for v in value]
        return array_api_strict.asarray(value.numpy()) if isinstance(value, torch.Tensor) else value

    found, expected = call(name, **{k: strict(v) for k, v in CALLS[name].items()}), call(name)
    pairs = zip(found, expected, strict=True) if isinstance(expected, tuple) else [(found, expected)]
    for array, tensor in pairs:
        assert isinstance(array, type(strict(ROWS)))
        np.testing.assert_array_equal(np.from_dlpack(array), tensor.numpy())


def test_operators_take_arrays_of_the_standard():
    x, mask = (array_api_strict.asarray(t.numpy()) for t in (IMAGES, (IMAGES[0, 0] > 0.5).float()))
    for a in (Inpainting(mask), Fourier(mask), Blur(mask[:3, :3]), Radon((16, 16), 5), Wavelet("haar", 2)):
        y = a(x)
        for array in (y, a.adjoint(y, (16, 16))):
            assert isinstance(array, type(x)), type(a).__name__
    assert isinstance(reconstruct(Inpainting(mask)(x), Inpainting(mask), noise=0.1, method="tv").x, type(x))


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool], ids=str)
@pytest.mark.parametrize("name", [n for n in CALLS if hasattr(ops, n) and n != "select_descent"])
def test_integers_are_refused(name, dtype):
    first = next(iter(CALLS[name]))
    with pytest.raises(ValueError, match=rf"^{name}: {first}: expected .* (int64|bool) on cpu$"):
        call(name, **{first: torch.ones(CALLS[name][first].shape, dtype=dtype)})


def test_numbers():
    assert number(2, "op", "a", least=2, most=2) == 2
    assert number(np.float32(0.5), "op", "a", above=0) == 0.5
    assert number(torch.tensor(0.5), "op", "a") == 0.5
    assert integer(np.int8(3), "op", "a") == 3
    assert flag(np.True_, "op", "a") is True
    assert choice("a", ("a", "b"), "op", "x") == "a"
    for limits, words in (
        ({"above": 0}, "a number > 0"), ({"least": 0}, "a number >= 0"), ({"below": 1}, "a number < 1"),
        ({"most": 1}, "a number <= 1"), ({}, "a finite number"), ({"above": 0, "most": 1}, r"a number in \(0, 1\]"),
        ({"least": 0, "below": 1}, r"a number in \[0, 1\)"),
    ):  # fmt: skip
        for value in (NAN, "text", None):
            with pytest.raises(ValueError, match=rf"^op: a: expected {words}, got "):
                number(value, "op", "a", **limits)
    with pytest.raises(ValueError, match=r"op: a: expected an integer >= 1, got 1\.5"):
        integer(1.5, "op", "a", least=1)
    with pytest.raises(ValueError, match="op: a: expected True or False, got 1"):
        flag(1, "op", "a")
    with pytest.raises(ValueError, match="op: a: expected x or y, got 'z'"):
        choice("z", ("x", "y"), "op", "a")


def test_numbers_that_a_type_cannot_hold_are_refused():
    for x, tau in ((torch.ones(2).half(), 1e5), (torch.ones(2), 1e39)):
        with pytest.raises(ValueError, match=r"^soft_threshold: tau: expected a number that float\d\d holds"):
            ops.soft_threshold(x, tau)
    with pytest.raises(ValueError, match=r"^smoothed_l21: eps: expected a number that float16 holds, got 1e-09"):
        ops.smoothed_l21(torch.ones(1, 2, 3).half(), 1e-9)


def test_noise_is_checked():
    generator = torch.Generator()
    for arguments, message in (
        (([1.0], 0.1, generator), r"x: expected a real tensor, got list \[1.0\]"),
        ((ROWS, 1.5, generator), r"share: expected a number in \[0, 1\], got 1.5"),
        ((ROWS, 0.1, 3), r"generator: expected a torch\.Generator on the CPU, got 3"),
    ):
        with pytest.raises(ValueError, match=f"^salt_and_pepper: {message}"):
            noise.salt_and_pepper(*arguments)


EMPTY = {"psnr": (0, 1, 16, 16), "ssim": (0, 1, 16, 16), "nmse_db": (0, 5), "relative_error": (0, 5)}


@pytest.mark.parametrize("name", CALLS)
def test_empty_batches(name):
    """No image: results of the right shapes without one, and gradients of it."""
    given, fixed = CALLS[name], {"weights", "filters", "matrix", "mask", "w" if name == "ladmm_shrink" else "", "a"}
    some = {k: v[:0] if isinstance(v, torch.Tensor) and k not in fixed else v for k, v in given.items()}
    whole, empty = call(name), call(name, **some)
    pairs = [(whole, empty)] if isinstance(whole, torch.Tensor) else zip(whole, empty, strict=True)
    for a, b in pairs:
        assert b.dtype == a.dtype
        assert b.shape == (0, *a.shape[1:])


DEFAULT = """
import torch
torch.set_default_dtype(torch.{dtype})
import fastrecon as fr
from fastrecon import masks, ops
from fastrecon.problems import wavelet_l1 as problems
from fastrecon.operators import Blur, Fourier, Identity
for mask in (masks.uniform((16, 16), 0.5), masks.variable_density((16, 16), 1), masks.radial((16, 16), 0.3)):
    assert mask.dtype == torch.float32
x = torch.rand(1, 1, 16, 16, dtype=torch.float32)
for task in problems.LAM:
    p = problems.instance(task, x, noise=1.0)
    assert p.y.real.dtype == p.coefficients.real.dtype == torch.float32, task
for name in fr.pretrained():
    model = fr.load(name)
    found = {{p.dtype for p in model.parameters()}} | {{b.dtype for b in model.buffers() if b.is_floating_point()}}
    assert found == {{torch.float32}}, (name, found)
    if model.method == "prior":
        assert model(x, Identity(), noise=0.1).x.dtype == torch.float32, name
        continue
    if model.method == "padnet" and model.problem in ("deblur", "slopes"):
        blur = Blur(torch.ones(3, 3, dtype=torch.float32) / 9)
        y = x if model.problem == "deblur" else torch.cat((x, x), 1)
        assert model(y, operator=blur, noise=0.1, iterations=1).x.dtype == torch.float32, name
        continue
    if model.method == "separation":
        assert model(x.expand(-1, 3, -1, -1), Identity()).x.dtype == torch.float32, name
        continue
    if model.method in ("lda", "error-controlled") and model.problem == "mri":
        sampled = Fourier(masks.radial((16, 16), 0.3))
        assert model(sampled(x.clamp(0, 1)), sampled).x.dtype == torch.complex64, name
        continue
    if model.method == "learned-fista":
        p = problems.instance(model.problem, x)
        assert model(p.y, p.image_operator, lipschitz=1.0).x.real.dtype == torch.float32, name
        continue
    if model.problem == "dehaze":
        assert model(x.expand(-1, 4, -1, -1), Identity()).x.dtype == torch.float32, name
        continue
    if hasattr(model, "q"):
        y = torch.rand(1, 1, 1, model.q.shape[1], dtype=torch.float32)
    elif hasattr(model, "side"):
        y = x
    elif hasattr(model, "solver"):
        y = torch.rand(1, model.operator.atoms.shape[0], dtype=torch.float32)
    else:
        y = x.to(torch.complex64) if model.network.settings.get("complex_input") else x
        with torch.no_grad():
            answer = model.network(y) if name.startswith("unet") else model.network(y, y)
        assert answer.dtype == torch.float32, name
        continue
    for one in (model, fr.Engine(model)):
        assert one(y).x.dtype == torch.float32, name
"""


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_the_default_dtype_changes_nothing(dtype):
    run = subprocess.run(
        [sys.executable, "-c", DEFAULT.format(dtype=dtype)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
