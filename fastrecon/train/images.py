"""Training images: folders of them, what is kept for validation, crops, and what tells one set from another."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from fastrecon import io
from fastrecon.checks import expect
from fastrecon.train.progress import track


@dataclass(frozen=True)
class Images:
    """Images to train on, and those kept for validation: luminance, float32 [H, W] on [0, 1] each."""

    training: list[Tensor]
    held: list[Tensor]

    @classmethod
    def load(
        cls, inputs: Sequence[str | Path], validation: Sequence[str | Path] = (), quiet: bool = True
    ) -> "Images":  # fmt: skip
        """The images in folders (or single files); not `quiet`: with progress.

        Raises:
            FileNotFoundError, ValueError: an input is missing, holds no image, or an image is damaged; the line names
                it.
        """
        return cls(_read(inputs, quiet), _read(validation, quiet))

    @property
    def counts(self) -> dict[str, int]:
        """How many there are, for the model's card."""
        return {"training": len(self.training), "validation": len(self.held)}

    def hold(self, share: float, seed: int) -> "Images":
        """These, if images are held already; else with a seeded draw of `share` of them held, at least one if > 0."""
        if self.held:
            return self
        count = len(self.training)
        order, held = drawn(count, seed), min(count - 1, max(1, round(share * count))) if share > 0 else 0
        training, kept = sorted(order[held:]), sorted(order[:held])
        return Images([self.training[i] for i in training], [self.training[i] for i in kept])


def _read(inputs: Sequence[str | Path], quiet: bool) -> list[Tensor]:
    paths = io.expand(inputs)
    shown = track(paths, "reading images", len(paths), "image", quiet or not paths)
    return [torch.from_numpy(io.read_image(path).pixels) for path in shown]


def drawn(count: int, seed: int) -> list[int]:
    """0, ..., count - 1 in a random order."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()


def central(image: Tensor, side: int) -> Tensor:
    """The central part of an image [..., H, W], at most side x side."""
    h, w = (min(s, side) for s in image.shape[-2:])
    top, left = (image.shape[-2] - h) // 2, (image.shape[-1] - w) // 2
    return image[..., top : top + h, left : left + w]


def digest(images: Iterable[Tensor]) -> str:
    """What tells these images from others: the start of a SHA-256 of all their pixels."""
    found = hashlib.sha256()
    for image in images:
        found.update(cast(Any, image.detach().cpu().contiguous().numpy()))
    return found.hexdigest()[:16]


def expect_same(state: dict[str, Any], mine: str) -> None:
    """Raises ValueError unless these images, of this digest, are those of a checkpoint; the oldest have no digest."""
    theirs = state.get("digest", mine)
    expect(theirs == mine, "train", "--data", f"the images of the checkpoint (SHA-256 {theirs})", f"others ({mine})")


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

    @cached_property
    def digest(self) -> str:
        """What tells these images from others."""
        return digest([self.pixels])

    def state_dict(self) -> dict[str, Tensor]:
        """The state of the generator."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continues the sequence of crops from `state`."""
        self.generator.set_state(state["generator"])
