"""The optimiser against torch's own class."""

import subprocess
import sys

import pytest
import torch

from pipeline.adam import AdamW


def parameters():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in ((5, 3), (5,))]


def take_steps(optimizer, moved, rates, step):
    for number, rate in enumerate(rates):
        optimizer.zero_grad()
        generator = torch.Generator().manual_seed(number)
        sum((p * torch.randn(p.shape, generator=generator)).sum() ** 3 for p in moved).backward()
        step(rate)


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_steps_are_those_of_torch(decay):
    rates = (1e-2, 3e-2, 1e-3, 0.0)
    own, torchs = parameters(), parameters()
    adam = AdamW([(own[:1], decay), (own[1:], 0.0)])
    take_steps(adam, own, rates, adam.step)
    groups = [{"params": torchs[:1], "weight_decay": decay}, {"params": torchs[1:]}]
    theirs = torch.optim.AdamW(groups, weight_decay=0.0, fused=True)

    def step(rate):
        for group in theirs.param_groups:
            group["lr"] = rate
        theirs.step()

    take_steps(theirs, torchs, rates, step)
    assert all(torch.equal(p, q) for p, q in zip(own, torchs, strict=True))
    for index, moments in theirs.state_dict()["state"].items():
        for name, tensor in moments.items():
            assert torch.equal(adam.state()[f"{index}.{name}"], tensor)


def test_torchs_compiler_is_not_imported():
    program = """
import sys, torch
from pipeline.adam import AdamW
leaf = torch.ones(2, requires_grad=True)
adam = AdamW([([leaf], 0.1)])
leaf.square().sum().backward()
adam.step(0.1)
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
