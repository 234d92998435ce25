"""Running a network as far as its last tap, and finding out what it needs to get there."""

import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pipeline.errors import BackboneError


class _LastTapReached(Exception):
    """Ends a forward pass: nothing behind the last tap is wanted."""


class TappedNetwork:
    """A network that hands out what some of its modules computed.

    A network may overwrite an output in place, as torchvision's do with most ReLUs. To copy every
    output would cost more than all else that is done beside the forward pass, so modules are told
    to work out of place, and an output that a function overwrites all the same is found out by
    torch's count of its versions: from then on that module's outputs are copied.

    Parameters
    ----------
    network
        In evaluation mode. Hooks are added to it and stay.
    modules
        Names of the modules whose outputs are wanted.
    last
        The one of them that runs last: the pass ends there. Without it the pass runs to its end.
    """

    def __init__(self, network: nn.Module, modules: Sequence[str], last: str | None = None) -> None:
        self.network = network
        self._last = last
        self._overwritten: frozenset[str] = frozenset()
        module: Any
        for module in network.modules():
            if getattr(module, "inplace", False):
                module.inplace = False
        # Per thread, because the hooks are shared by all passes through the network.
        self._pass = threading.local()
        for name in modules:
            network.get_submodule(name).register_forward_hook(partial(self._keep, name))

    def __call__(self, images: Tensor) -> list[tuple[str, Any]]:
        """Run images ``(N, 3, H, W)`` and return (module, output) in the order of running.

        The outputs are what the modules returned: nothing has been done to them afterwards.
        """
        while True:
            outputs = self._run(images)
            changed = {name for name, output, version in outputs if _version(output) != version}
            if not changed:
                return [(name, output) for name, output, _ in outputs]
            self._overwritten |= changed

    def _run(self, images: Tensor) -> list[tuple[str, Any, int]]:
        outputs: list[tuple[str, Any, int]] = []
        self._pass.outputs = outputs
        try:
            # Tensors of inference mode have no versions; the caller may be in it.
            with torch.inference_mode(False), torch.no_grad(), suppress(_LastTapReached):
                self.network(images)
        finally:
            del self._pass.outputs
        return outputs

    def _keep(self, name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        kept = output.clone() if name in self._overwritten else output
        self._pass.outputs.append((name, kept, _version(kept)))
        if name == self._last:
            raise _LastTapReached


def _version(output: Any) -> int:
    """Return how often a tensor has been changed in place; what is no tensor is no map either.

    One of inference mode, an image that a module handed on, cannot be changed outside of it.
    """
    return output._version if isinstance(output, Tensor) and not output.is_inference() else 0


def last_to_run(skeleton: nn.Module, modules: Sequence[str], size: int, *, backbone: str) -> str:
    """Return which of the modules is the last to run, tried on an image of ``size`` squared.

    Parameters
    ----------
    skeleton
        A network on the ``meta`` device. It is not to be used afterwards, as it keeps its hooks.

    Raises
    ------
    BackboneError
        If one of them does not run, or runs more than once, so that it has no output of its own.
    """
    run = [name for name, _ in TappedNetwork(skeleton, modules)(blank_image(size, size))]
    for name in modules:
        times = run.count(name)
        if times == 0:
            raise BackboneError(
                f"{backbone}: module {name!r} is not used in inference; tap another"
            )
        if times > 1:
            raise BackboneError(
                f"{backbone}: module {name!r} runs {times} times in one pass, so which output is "
                "meant is unclear; tap a module before it or the block around it"
            )
    return run[-1]


def takes_the_image(skeleton: nn.Module, module: str, size: int) -> bool:
    """Tell whether what a module is given is the image as the network is given it.

    Parameters
    ----------
    skeleton
        As for :func:`last_to_run`.
    """
    image = blank_image(size, size)
    given: list[bool] = []

    def note(_module: nn.Module, inputs: Any) -> None:
        given.append(inputs[0] is image and image._version == 0)

    skeleton.get_submodule(module).register_forward_pre_hook(note)
    TappedNetwork(skeleton, [module], module)(image)
    return given == [True]


def tensors_used(tapped: TappedNetwork, size: int) -> frozenset[str]:
    """Return the names of the parameters and buffers that the taps depend on.

    They are found by watching every torch function that a pass on the ``meta`` device calls, so
    weights that a network uses without calling the module that holds them are among them.
    """
    with _TensorRecorder(tapped.network) as recorder:
        tapped(blank_image(size, size))
    return frozenset(recorder.used)


def blank_image(height: int, width: int) -> Tensor:
    """Return one image ``(1, 3, height, width)`` that has a shape and no values."""
    return torch.empty(1, 3, height, width, device="meta")


class _TensorRecorder(TorchFunctionMode):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        named = chain(network.named_parameters(), network.named_buffers())
        self._names = {id(tensor): name for name, tensor in named}
        self.used: set[str] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        self._note(args)
        self._note(tuple(kwargs.values()))
        return func(*args, **kwargs)

    def _note(self, value: Any) -> None:
        if isinstance(value, (tuple, list)):
            for item in value:
                self._note(item)
        elif id(value) in self._names:
            self.used.add(self._names[id(value)])
