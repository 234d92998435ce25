"""The optimiser: Adam with decoupled weight decay."""

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torch.optim.adamw import adamw


class AdamW:
    """The steps of torch's fused ``AdamW`` (Loshchilov and Hutter, ICLR 2019), bit for bit.

    That class imports torch's compiler, which takes as long as importing torch. The function that
    computes its steps does not.

    Parameters
    ----------
    groups : sequence of (parameters, weight decay)
        What is trained, and what it decays by, relative to the learning rate. Without decay the
        steps are those of Adam (Kingma and Ba, ICLR 2015).
    """

    def __init__(self, groups: Sequence[tuple[Sequence[Tensor], float]]) -> None:
        self._groups = groups
        self._moments = [
            {
                "step": torch.zeros((), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter, requires_grad=False),
                "exp_avg_sq": torch.zeros_like(parameter, requires_grad=False),
            }
            for parameters, _ in groups
            for parameter in parameters
        ]

    def zero_grad(self) -> None:
        """Forget the gradients of the last step."""
        for parameters, _ in self._groups:
            for parameter in parameters:
                parameter.grad = None

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Move all parameters along their gradients, which each of them must have."""
        first = 0
        for parameters, decay in self._groups:
            moments = self._moments[first : first + len(parameters)]
            first += len(parameters)
            adamw(
                list(parameters),
                cast("list[Tensor]", [p.grad for p in parameters]),
                [m["exp_avg"] for m in moments],
                [m["exp_avg_sq"] for m in moments],
                [],
                [m["step"] for m in moments],
                fused=True,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=learning_rate,
                weight_decay=decay,
                eps=1e-8,
                maximize=False,
            )

    def state(self) -> dict[str, Tensor]:
        """Give the moments of every parameter and its count of steps, such as ``0.exp_avg``."""
        return {
            f"{index}.{name}": tensor
            for index, moments in enumerate(self._moments)
            for name, tensor in moments.items()
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from a state: what follows equals what would have followed then."""
        for name, tensor in self.state().items():
            tensor.copy_(tensors[name])


def cosine(learning_rate: float, progress: float) -> float:
    """Give the learning rate after a share of all steps: down to zero along half a cosine.

    Loshchilov and Hutter, "SGDR", ICLR 2017, equation 5, without restarts.
    """
    return learning_rate * (1 + math.cos(math.pi * min(1.0, progress))) / 2
