"""Training data: folders of images, random crops from one flat buffer, and the least-squares start."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from fastrecon import io
from fastrecon.checks import expect
from fastrecon.train.progress import track


def load(inputs: Sequence[str | Path], quiet: bool = True) -> list[Tensor]:
    """The images in folders (or single files) as luminance, float32 [H, W] on [0, 1] each; not `quiet`: with progress.

    Raises:
        FileNotFoundError, ValueError: an input is missing, holds no image, or an image is damaged; the line names it.
    """
    paths = io.expand(inputs)
    shown = track(paths, "reading images", len(paths), "image", quiet or not paths)
    return [torch.from_numpy(io.read_image(path).pixels) for path in shown]


def split(count: int, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices of the training and the validation images: a seeded draw of `fraction` of them, at least one if > 0."""
    held = min(count - 1, max(1, round(fraction * count))) if fraction > 0 else 0
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return sorted(order[held:]), sorted(order[:held])


def load_and_hold(
    inputs: Sequence[str | Path], validation: Sequence[str | Path], fraction: float, seed: int, quiet: bool = True
) -> tuple[list[Tensor], list[Tensor]]:
    """Training and validation images: those of `validation` if there are any, else a share of `inputs`, see `split`."""
    images, held = load(inputs, quiet), load(validation, quiet)
    if not held:
        train, hold = split(len(images), fraction, seed)
        images, held = [images[i] for i in train], [images[i] for i in hold]
    return images, held


def _orientations(side: int) -> Tensor:
    """Row-major positions of a side x side crop under the 8 symmetries of the square, int64 [8, side * side]."""
    grid = torch.arange(side * side).view(side, side)
    turned = [torch.rot90(g, k) for g in (grid, grid.T) for k in range(4)]
    return torch.stack([g.reshape(-1) for g in turned])


class Crops:
    """Random square crops, uniform over all positions in all images, each in one of the 8 orientations.

    The images lie in one flat buffer, so a batch is one gather. Every process of a distributed run draws the whole
    batch and takes its share of it: the data do not depend on the number of processes.

    Args:
        images: float [H, W] each; those smaller than the crop are left out.
        side: of the crop in pixels.
        seed: of the generator, whose state `state_dict` returns.
        device: where the buffer lives and the batches appear.
        dtype: of the batches.

    Raises:
        ValueError: every image is smaller than the crop.
    """

    def __init__(
        self, images: Sequence[Tensor], side: int, seed: int,
        device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32,
    ):  # fmt: skip
        large = [i for i in images if min(i.shape) >= side]
        if not large:
            sizes = f"{len(images)} image(s), the largest with a shorter side of {max(min(i.shape) for i in images)}"
            raise ValueError(f"train: patch: expected images of at least {side}x{side} pixels, got {sizes}")
        self.count, self.skipped, self.side = len(large), len(images) - len(large), side
        self.pixels = torch.cat([i.reshape(-1) for i in large]).to(device, dtype)
        self._heights = torch.tensor([i.shape[0] for i in large])
        self._widths = torch.tensor([i.shape[1] for i in large])
        self._starts = torch.cumsum(self._heights * self._widths, 0) - self._heights * self._widths
        self._ends = torch.cumsum((self._heights - side + 1) * (self._widths - side + 1), 0)  # of crop positions
        positions = _orientations(side)
        self._rows, self._columns = positions // side, positions % side
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, batch: int, rank: int = 0, world: int = 1) -> Tensor:
        """Every `world`-th crop of a batch, from the rank-th on: [batch / world, 1, side, side]."""
        place = torch.randint(int(self._ends[-1]), (batch,), generator=self.generator)
        turn = torch.randint(8, (batch,), generator=self.generator)[rank::world]
        place = place[rank::world].contiguous()
        image = torch.searchsorted(self._ends, place, right=True)
        across = self._widths[image] - self.side + 1
        place = place - self._ends[image] + across * (self._heights[image] - self.side + 1)
        width = self._widths[image]
        corner = self._starts[image] + place // across * width + place % across
        index = corner[:, None] + self._rows[turn] * width[:, None] + self._columns[turn]
        return self.pixels[index.to(self.pixels.device)].view(-1, 1, self.side, self.side)

    def digest(self) -> str:
        """What tells these images from others."""
        return hashlib.sha256(cast(Any, self.pixels.cpu().numpy())).hexdigest()[:16]

    def expect_same(self, state: dict[str, Any]) -> None:
        """Raises ValueError unless these are the images of `state`, with its "pixels" and, in newer ones, "digest"."""
        count = self.pixels.numel()
        expected = f"the images of the checkpoint, {state['pixels']} pixels"
        expect(state["pixels"] == count, "train", "--data", expected, f"{count}")
        same = state.get("digest", self.digest()) == self.digest()
        expect(same, "train", "--data", expected, "others with as many pixels")

    def state_dict(self) -> dict[str, Tensor]:
        """The state of the generator."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continues the sequence of crops from `state`."""
        self.generator.set_state(state["generator"])


def block_covariance(crops: Crops, block: int, blocks: int) -> Tensor:
    """Second moment E[x x^T] of about `blocks` row-major block x block crops, float64 [block^2, block^2]."""
    n, side = block * block, crops.side // block
    total = torch.zeros(n, n, dtype=torch.float64)
    batch = max(1, 4096 // side**2)
    rounds = -(-blocks // (batch * side**2))
    for _ in range(rounds):
        x = crops(batch).view(-1, side, block, side, block).transpose(2, 3).reshape(-1, n).to("cpu", torch.float64)
        total.addmm_(x.T, x)
    return total / (rounds * batch * side**2)


def least_squares_start(phi: Tensor, covariance: Tensor, ridge: float = 1e-6) -> Tensor:
    """Q [n, m] that minimises the mean of |Q Phi x - x|^2: Q = C Phi^T (Phi C Phi^T)^-1, so that Phi Q = I.

    The ridge, relative to the mean of C's diagonal, goes into C: the system stays well conditioned where blocks lie in
    a subspace, and Phi Q = I holds all the same. With C = X X^T this is X B^T (B B^T)^-1, B = Phi X.

    Args:
        phi: sampling matrix [m, n] of full row rank.
        covariance: second moment of the blocks [n, n], float64.
        ridge: > 0.

    Source: Zhang & Ghanem, ISTA-Net, arXiv:1706.07929, sec. 3.3.
    """
    phi = phi.to(torch.float64)
    c = covariance + ridge * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=torch.float64)
    c_phi = c @ phi.T
    return torch.linalg.solve(phi @ c_phi, c_phi, left=False)
