"""Networks ask the device nothing on the way: on shapes that claim to lie on a GPU, and on a GPU if there is one.

A host that waits leaves the GPU idle, and a CUDA graph cannot be captured.
"""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from utils import NoSync
from zoo import CASES

NO_GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
C10_REGISTER_GUARD_IMPL(CUDA, c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA>)
"""


@pytest.fixture(scope="module")
def fake_mode(tmp_path_factory):
    """Shapes on "cuda" need a device guard, though it does nothing; a torch built without CUDA lacks one."""
    if torch.version.cuda is None:
        compiler = shutil.which("g++")
        if compiler is None:
            pytest.skip("this torch was built without CUDA, and there is no g++ to add its device guard")
        folder, torch_folder = tmp_path_factory.mktemp("guard"), Path(torch.__file__).parent
        (folder / "guard.cpp").write_text(NO_GUARD)
        options = ["-std=c++20", "-shared", "-fPIC", f"-I{torch_folder}/include", f"-L{torch_folder}/lib"]
        subprocess.run([compiler, "guard.cpp", *options, "-lc10", "-o", "guard.so"], cwd=folder, check=True)
        ctypes.CDLL(str(folder / "guard.so"))
    elif not torch.cuda.is_available():
        torch._C._ensureCUDADeviceGuardSet()
    return FakeTensorMode()


def on_fake_gpu(mode: FakeTensorMode, t: Tensor) -> Tensor:
    """The shape of t on a GPU that need not exist."""
    fake = mode.from_tensor(t.detach())
    with mode:
        return fake.to("cuda")


def move_to_fake_gpu(mode: FakeTensorMode, module: nn.Module) -> None:
    for part in module.modules():
        for tensors, kind in ((part._buffers, lambda t: t), (part._parameters, nn.Parameter)):
            tensors |= {name: kind(on_fake_gpu(mode, t)) for name, t in tensors.items() if t is not None}


@pytest.mark.parametrize("case", CASES)
def test_nothing_waits_for_the_device(case, fake_mode):
    module, y, options = CASES[case]()
    expected = module.compute(y, **options)
    assert module.capturable(**options)
    move_to_fake_gpu(fake_mode, module)
    y = on_fake_gpu(fake_mode, y)
    with fake_mode, NoSync():
        x, report = module.compute(y, **options)
    assert (x.shape, x.dtype, x.device.type) == (expected[0].shape, expected[0].dtype, "cuda")
    found = []
    report.map(lambda name, t: found.append((name, t.device.type)) or t)
    assert len(found) > 5
    assert {device for _, device in found} == {"cuda"}, found  # the report was made where the images are


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES)
def test_nothing_waits_for_a_real_device(case):
    module, y, options = CASES[case]()
    expected = module.compute(y, **options)
    module, y = module.cuda(), y.cuda()
    module.compute(y, **options)  # kernels are compiled, rays and plans moved
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        x, report = module.compute(y, **options)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(x.cpu(), expected[0], rtol=1e-4, atol=1e-4)
    assert report.status == expected[1].status


ASKS = {
    "item": lambda x: x.sum().item(),
    "if": lambda x: bool((x > 0).any()),
    "tolist": lambda x: x.tolist(),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
    "assignment by a mask": lambda x: x.masked_fill(x > 0, 1).__setitem__(x > 0, x.sum()),
    "to the host": lambda x: x.cpu(),
    "from the host": lambda x: x + torch.zeros(3).to(x.device),
    "numbers from the host": lambda x: x * torch.tensor([1.0, 2.0, 3.0], device=x.device),
}


@pytest.mark.parametrize("ask", ASKS)
def test_a_question_is_noticed(ask, fake_mode):
    with fake_mode:
        x = torch.zeros(3, device="cuda")
        with NoSync(), pytest.raises(AssertionError, match=r"host"):
            ASKS[ask](x)
