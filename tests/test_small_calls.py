"""Small calls go straight to the kernel only where nobody looks, and then give the bits that the dispatcher gives."""

import resource
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from utils import numbers

from fastrecon import ops, registry
from fastrecon.ops import layout
from fastrecon.ops.function import unwatched

TORCH, ROOT = Path(torch.__file__).parent, Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(registry.looking() is None, reason="no extension, or PyTorch older than 2.10")


class Subclass(Tensor):
    pass


class Watching(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


def tensors() -> dict[str, Tensor]:
    x, z = numbers(2, 3), numbers(2, 3, dtype=torch.complex128)
    with FakeTensorMode():
        fake = torch.empty(2, 3, dtype=torch.float64)
    return {
        "float64": x, "float32": x.float(), "complex128": z, "complex64": z.to(torch.complex64), "half": x.half(),
        "bfloat16": x.bfloat16(), "int": x.long(), "bool": x > 0, "0-dim": x[0, 0].clone(), "[2]": numbers(2),
        "[2] float32": numbers(2).float(), "[2] int": numbers(2).long(), "[3]": numbers(3), "[1, 2]": numbers(1, 2),
        "more": numbers(2, 3, 1), "view": numbers(3, 3)[1:], "row": numbers(3, 1, 3)[:, ::2],
        "column": numbers(3, 4).T[:1],
        "strided": numbers(2, 6)[:, ::2], "transposed": numbers(3, 2).T, "empty": x[:0], "no columns": x[:, :0],
        "conjugated": z.conj(), "negated": z.conj().imag, "imaginary": z.imag, "asks": x.clone().requires_grad_(),
        "asked": x.clone().requires_grad_() * 2, "parameter": nn.Parameter(x.clone()),
        "subclass": x.as_subclass(Subclass),
        "fake": fake, "meta": x.to("meta"), "sparse": x.to_sparse(),
    }  # fmt: skip


def both(monkeypatch, question):
    """Its answer by the compiled module and by Python."""
    compiled = question()
    with monkeypatch.context() as without:
        for module in ("function", "layout"):
            without.setattr(f"fastrecon.ops.{module}.looking", lambda: None)
        return compiled, question()


@pytest.mark.parametrize("recording", [True, False])
def test_the_module_answers_as_python_does(recording, monkeypatch):
    plain = set()
    with torch.set_grad_enabled(recording):
        for name, t in tensors().items():
            found, expected = both(monkeypatch, lambda t=t: unwatched(t))
            assert found is expected, name
            if found:
                plain.add(name)
                found, expected = both(monkeypatch, lambda t=t: unwatched(1.0, "text", None, t))
                assert found is expected is True
            found, expected = both(monkeypatch, lambda t=t: layout.alike(1, t))
            assert found == expected, name
            for other, u in tensors().items():
                for count in (1, 2):
                    found, expected = both(monkeypatch, lambda count=count, t=t, u=u: layout.alike(count, t, u))
                    assert found == expected, (name, other, count)
    asking = {"asks", "asked"}
    assert plain >= {"float64", "complex64", "int", "0-dim", "view", "[2]"}
    assert (plain >= asking) is not recording
    watched = {"conjugated", "negated", "strided", "parameter", "subclass", "fake", "meta", "sparse", "empty"}
    assert not plain & watched


def test_sizes_and_the_codes_of_dtypes():
    x = numbers(2, 3, 4, 5)
    assert layout.alike(1, x) == (1, 2, 60)
    assert layout.alike(2, x, x + 1, x[:, 0, 0, 0].float().clone()) == (1, 2, 60)
    for dtype, code in layout.DTYPES.items():
        assert layout.alike(1, numbers(7, dtype=dtype)) == (code, 7, 1)


def test_outputs_lie_where_their_addresses_say_and_live_as_long_as_one_of_them(monkeypatch):
    for batch in (1, 3):
        for layout_ in ("d", "fb", "d4b", "3"):
            found, expected = both(monkeypatch, lambda b=batch, text=layout_: layout.outputs(text, b))
            arrays = len(layout_)
            for mine, other in zip(found[:-arrays], expected[:-arrays], strict=True):
                assert (mine.shape, mine.dtype, mine.device) == (other.shape, other.dtype, other.device)
                assert batch == 1 or mine.stride() == other.stride()
                assert not mine.is_floating_point() or mine.isnan().all()
    gamma, a, b, accepted, *addresses = layout.outputs("d2b", 3)
    assert [t.data_ptr() for t in (gamma, a, accepted)] == addresses
    assert b.data_ptr() == a.data_ptr() + 8
    assert all(address % 64 == 0 for address in addresses)
    b.copy_(torch.arange(3))
    del gamma, a, accepted
    for _ in range(100):  # would take the memory if it were free
        layout.outputs("d2b", 3)[0].zero_()
    assert b.tolist() == [0, 1, 2]
    b.requires_grad_().square().sum().backward()
    assert b.grad is not None
    assert b.grad.tolist() == [0, 2, 4]
    with torch.inference_mode():
        assert layout.outputs("d", 1)[0].is_inference()


@pytest.mark.parametrize("dtype", list(layout.DTYPES), ids=str)
def test_a_kernel_is_prepared_as_python_does_it(dtype, monkeypatch):
    x, y = (numbers(3, 2, 5, dtype=dtype, seed=s) for s in range(2))
    each = numbers(3).float()
    pair, real = numbers(6, 2, 5, dtype=dtype)[3:], x.abs().dtype
    for text, arrays in (("drb", (x, y, each)), ("3", (x, pair)), ("d4b", (pair, x, y, each.double()))):
        n = len([a for a in arrays if a.ndim > 1])
        found, expected = both(monkeypatch, lambda text=text, n=n, arrays=arrays: layout.prepare(text, n, *arrays))
        tensors = len(found) - 3 - len(arrays) - len(text)
        assert found[:3] == expected[:3] == (layout.DTYPES[dtype], 3, 10)
        assert [(t.shape, t.dtype) for t in found[3 : 3 + tensors]] == [
            (t.shape, t.dtype) for t in expected[3 : 3 + tensors]
        ]
        addresses = found[3 + tensors :]
        assert addresses[: len(arrays)] == tuple(a.data_ptr() for a in arrays)
        assert addresses[len(arrays)] == found[3].data_ptr()
    assert layout.prepare("r", 1, x)[3].dtype == real  # type: ignore[index]
    for refused in ((x, y.flatten(1)), (x, each), (x, y[:2]), (x.clone().requires_grad_(), y)):
        assert both(monkeypatch, lambda refused=refused: layout.prepare("d", 2, *refused)) == (None, None)


def test_outputs_are_freed_and_take_only_layouts_they_know():
    module = registry.looking()
    assert module is not None
    for bad in (("x", 1), ("d", 0), ("d", -1), ("55", 2), ("0", 1), ("d",), ("d", 1 << 41)):
        with pytest.raises(ValueError, match="expected a layout of f, d, b and digits"):
            module.outputs(*bad)
    for bad in ((1, 1), ("d", "1")):
        with pytest.raises(TypeError):
            module.outputs(*bad)
    with pytest.raises(ValueError, match="expected a layout"):
        module.prepare("x", 1, (numbers(2, 3),))
    for size in ("d", "9"):
        module.outputs(size, 1 << 17)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(100):  # of 9 MiB each, of which a sanitizer holds some back
        module.outputs("9", 1 << 17)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + (400 << 10)


@pytest.mark.filterwarnings("ignore:.*jit.trace:DeprecationWarning")
def test_whoever_looks_is_seen(monkeypatch):
    x, seen = numbers(2, 3), []

    def ask(*_: Tensor) -> Tensor:
        seen.append(both(monkeypatch, lambda: (unwatched(x), layout.alike(1, x))))
        return x

    ask()
    assert seen.pop() == ((True, (1, 2, 3)),) * 2
    with Watching():
        ask()
    torch.func.vmap(ask)(x)
    torch.func.grad(lambda t: ask(t).sum() + t.sum())(x)
    with torch.autograd.forward_ad.dual_level():
        ask()
    torch.jit.trace(lambda t: t + ask(t), x, check_trace=False)
    with registry.using("reference"):
        ask()
    assert seen == [((False, None),) * 2] * 6
    assert layout.alike(1, x)


def small(dtype: torch.dtype, batch: int):
    """Calls of small ops by name, on arguments of a dtype."""
    x, g, z = (numbers(batch, 2, 8, 4, dtype=dtype, seed=s) for s in range(3))
    real = x.abs().dtype
    each, phi = numbers(batch, dtype=real, seed=4).abs() + 0.1, numbers(batch, seed=5)
    many = numbers(*x.shape, dtype=real, seed=6).abs()
    return {
        "select_descent": lambda: ops.select_descent(x, g, phi, phi.flip(0)),
        "select_descent float32": lambda: ops.select_descent(x, g, phi.float(), phi.flip(0)),
        "shrink_eps": lambda: ops.shrink_eps(x, g, 5 * each, 2.0, 0.9),
        "shrink_eps number": lambda: ops.shrink_eps(x, g, 5, 2.0, 0.9),
        **{
            f"prox_gradient_step {s} {w}": lambda s=s, w=w: ops.prox_gradient_step(
                x, g, {"number": 0.5, "each": each, "many": many}[s], {"number": 0.2, "each": each, "many": many}[w]
            )
            for s in ("number", "each", "many") for w in ("number", "each", "many")
        },
        "squares": lambda: ops.squares(x), "squares of a difference": lambda: ops.squares(x, g),
        "armijo": lambda: ops.armijo(x, z, g, 0.2, each.double()),
        "armijo slack": lambda: ops.armijo(x, z, g, each, each, slack=0.5, rule="paper", trials=3),
        "armijo slacks": lambda: ops.armijo(x, z, g, many, each, slack=each),
        "dwt2": lambda: ops.dwt2(x, level=2), "idwt2": lambda: ops.idwt2(x, "haar", 1), 
        "dwt2 0": lambda: ops.dwt2(x, level=0),
        "soft_threshold": lambda: ops.soft_threshold(x, 0.3), "prox_lp": lambda: ops.prox_lp(x, 0.3, 0.5),
        "group_soft_threshold": lambda: ops.group_soft_threshold(x, 0.3),
    }  # fmt: skip


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("dtype", layout.DTYPES, ids=str)
def test_same_bits_as_by_the_dispatcher(dtype, batch):
    for name, call in small(dtype, batch).items():
        straight = call()
        with Watching():
            dispatched = call()
        results = zip(*((r,) if isinstance(r, Tensor) else r for r in (straight, dispatched)), strict=True)
        for a, b in results:
            assert (a.dtype, a.shape) == (b.dtype, b.shape), name
            assert torch.equal(a, b), name


def test_messages_are_the_same():
    x = numbers(2, 3)
    wrong = {
        "armijo: lam: expected a number >= 0, got -1.0": lambda: ops.armijo(x, x, x, -1.0, x[:, 0].clone()),
        "armijo: slack: expected a number >= 0, got -1.0": lambda: ops.armijo(
            x, x, x, 1.0, x[:, 0].clone(), slack=-1.0
        ),
        "prox_gradient_step: step: expected a number > 0, got 0.0": lambda: ops.prox_gradient_step(x, x, 0.0, 0.1),
        "shrink_eps: eps: expected a number or shape": lambda: ops.shrink_eps(x, x, x[0], 1.0, 0.5),
        "select_descent: v: expected": lambda: ops.select_descent(x, x[:1], x[:, 0], x[:, 0]),
    }
    for message, call in wrong.items():
        for _ in range(2):  # what was refused is not kept
            with pytest.raises(ValueError, match=message):
                call()


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_the_interface_of_dlpack_is_as_declared(tmp_path):
    checks = [
        "static_assert(sizeof(::DLTensor) == sizeof(fastrecon::DLTensor));",
        "static_assert(sizeof(::DLPackExchangeAPI) == sizeof(fastrecon::DLPackExchangeApi));",
        "static_assert(sizeof(::DLManagedTensorVersioned) == sizeof(fastrecon::DLManagedTensor));",
    ]
    members = ("data", "device.device_type", "device.device_id", "ndim", "dtype.code", "dtype.bits", "dtype.lanes")
    for member in (*members, "shape", "strides", "byte_offset"):
        ours = member.rpartition(".")[2]
        checks.append(f"static_assert(offsetof(::DLTensor, {member}) == offsetof(fastrecon::DLTensor, {ours}));")
    checks.append(
        "static_assert(offsetof(::DLPackExchangeAPI, dltensor_from_py_object_no_sync) =="
        " offsetof(fastrecon::DLPackExchangeApi, view));"
    )
    checks.append(
        "static_assert(offsetof(::DLPackExchangeAPI, managed_tensor_to_py_object_no_sync) =="
        " offsetof(fastrecon::DLPackExchangeApi, to_object));"
    )
    for member, ours in (("manager_ctx", "owner"), ("deleter", "release"), ("flags",) * 2, ("dl_tensor", "tensor")):
        place = f"offsetof(fastrecon::DLManagedTensor, {ours})"
        checks.append(f"static_assert(offsetof(::DLManagedTensorVersioned, {member}) == {place});")
    checks.append("static_assert(kDLCPU == 1 && kDLFloat == 2 && kDLComplex == 5 && kDLBool == 6);")
    checks.append("static_assert(DLPACK_MAJOR_VERSION == 1);")
    source = tmp_path / "same.cpp"
    source.write_text('#include <ATen/dlpack.h>\n#include <cstddef>\n#include "arrays.h"\n' + "\n".join(checks))
    pybind11 = pytest.importorskip("pybind11")
    folders = (TORCH / "include", ROOT / "csrc", sysconfig.get_path("include"), pybind11.get_include())
    command = ["c++", "-std=c++20", "-fsyntax-only", "-Wno-invalid-offsetof", *(f"-I{f}" for f in folders)]
    subprocess.run([*command, str(source)], check=True)
