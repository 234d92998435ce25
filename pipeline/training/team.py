"""The processes that train one head together, as ``torchrun`` starts them.

Each takes its share of every batch; the gradients are averaged between them
(DistributedDataParallel), so that all of them hold the same head after every step.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.errors import ParamsError, PeerLostError

T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """A process and those that train with it; by default it is alone.

    Attributes
    ----------
    device : torch.device
        Where this process computes.
    rank : int
        Which of the processes it is; the first one, 0, writes and speaks for all.
    size : int
        How many there are.
    """

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Give this process's part of what all of them are to do; it may be empty."""
        return items[self.rank :: self.size]

    def total(self, values: Tensor) -> Tensor:
        """Add up the tensors that the processes give, all of one shape."""
        if self.size == 1:
            return values
        summed = values.detach().to(self.device, copy=True)
        dist.all_reduce(summed)
        return summed.to(values.device)

    def agreed(self, value: T) -> T:
        """Give the value of the first process to all of them."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, device=self.device)
        return values[0]

    def joined(self, module: nn.Module) -> nn.Module:
        """Have the gradients of a module averaged over the processes by every backward pass."""
        return module if self.size == 1 else DistributedDataParallel(module)


@contextmanager
def joined_team(device: torch.device) -> Iterator[Team]:
    """Join the other processes, if ``torchrun`` has started this one.

    Parameters
    ----------
    device : torch.device
        Where to compute; of several GPUs, each process of a machine takes its own.

    Raises
    ------
    ParamsError
        If there are more processes than GPUs.
    PeerLostError
        If another process has ended before its time.
    """
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        yield Team(device)
        return
    if device.type == "cuda" and device.index is None:
        device = _own_gpu()
    with _loss_named():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        yield Team(device, dist.get_rank(), dist.get_world_size())
    # Not after an error: it could wait for others, who are told by the end of this process.
    dist.destroy_process_group()


def _own_gpu() -> torch.device:
    number, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= there:
        raise ParamsError(
            f"process {number + 1} of this machine has no GPU of its own, there are {there}; "
            f"give torchrun --nproc-per-node {there}, or --device cpu"
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


@contextmanager
def _loss_named() -> Iterator[None]:
    """Say that another process is gone, rather than what the network makes of it."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error).lower():
            raise PeerLostError(
                "another process of this run has ended or cannot be reached; see what it said "
                "(each one's messages are on its own stderr), then run the same command again"
            ) from error
        raise
