"""Several training processes: who they are, and what they tell each other."""

import contextlib
import importlib
import os
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class World:
    """The processes of this run: this one's rank, how many there are, and its device."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def join(cls, device: torch.device) -> "World":
        """Joins the processes that torchrun started, over NCCL on CUDA and Gloo on the CPU; alone without torchrun."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls(device=device)
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
        if not dist.is_initialized():
            # PyTorch imports it later on, where the group would become the default of arguments, which nobody frees:
            # its threads would outlive the run, and one that releases a tensor at the interpreter's end aborts.
            importlib.import_module("torch.distributed.nn")
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(dist.get_rank(), dist.get_world_size(), device)

    def total(self, values: Tensor) -> Tensor:
        """The sum of `values` over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def largest(self, value: float) -> float:
        """The largest of the processes' numbers."""
        box = torch.tensor(value, dtype=torch.float64, device=self.device)
        if self.size > 1:
            dist.all_reduce(box, dist.ReduceOp.MAX)
        return float(box)

    def leave(self) -> None:
        """Ends the communication that `join` began, once all processes are here: none must miss another's last word."""
        if self.size > 1:
            dist.barrier()
            dist.destroy_process_group()

    def abandon(self) -> None:
        """Ends it at once, after an error: the others wait in another call and never come to a barrier."""
        if self.size > 1 and dist.is_initialized():
            with contextlib.suppress(RuntimeError):  # the error that led here is the one to tell
                group = dist.group.WORLD
                if group is not None:
                    group.abort()
                dist.destroy_process_group()
