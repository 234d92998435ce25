"""The original method, written as well as it can reasonably be.

It enlarges every tap to the size of the image and concatenates them, samples pixels from that map,
and trains by running the network again in every epoch and classifying the enlarged map of one image
at a time. Nothing here uses the pipeline's mathematics, only its drawing of pixels, so that both
look at the same ones.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from pipeline import Backbone, Drawing, Preprocessing, VocDataset
from pipeline.backbones.weights import load_weights
from pipeline.cache import draw_pixels


class PlainNetwork:
    """A network of torchvision's as far as its last tap, with nothing else in it.

    Its weights lie in memory as torch's convolutions take them fastest, channels last; what it is
    given follows suit.

    Parameters
    ----------
    backbone : Backbone
        Of random weights; the plain network gets the same.

    Raises
    ------
    ValueError
        If its weights are others.
    """

    def __init__(self, backbone: Backbone) -> None:
        if backbone.source != "random":
            raise ValueError(f"{backbone.source}: the plain network would have other weights")
        network = torchvision.models.get_model(backbone.name, weights=None)
        network.load_state_dict(load_weights(backbone.name, "random", seed=backbone.seed))
        places = [[module.split(".") for module in tap.modules] for tap in backbone.taps]
        last = max(int(parts[1]) for modules in places for parts in modules)
        layers = network.features[: last + 1].eval().requires_grad_(False)
        self.layers = layers.to(memory_format=torch.channels_last)
        self._taps = [
            [layers.get_submodule(name.removeprefix("features.")) for name in tap.modules]
            for tap in backbone.taps
        ]

    def maps(self, images: Tensor) -> list[Tensor]:
        """Run images (N, 3, H, W) through in one batch, and give the taps before their ReLU."""
        found: dict[nn.Module, Tensor] = {}
        modules = {module for modules in self._taps for module in modules}
        for module in self.layers.modules():  # what a tap gives is not to be overwritten
            if isinstance(module, nn.ReLU):
                module.inplace = False
        hooks = [
            module.register_forward_hook(lambda module, _, output: found.update({module: output}))
            for module in modules
        ]
        self.layers(images)
        for hook in hooks:
            hook.remove()
        return [
            found[modules[0]]
            if len(modules) == 1
            else torch.cat([found[module] for module in modules], dim=1)
            for modules in self._taps
        ]

    @torch.inference_mode()
    def batched(self, images: Sequence[Tensor], size: int = 8) -> None:
        """Run images (3, H, W) through in batches; all threads work on one batch."""
        for start in range(0, len(images), size):
            self.layers(torch.stack(list(images[start : start + size])))

    @torch.inference_mode()
    def singly(self, images: Sequence[Tensor]) -> None:
        """Run images through one after the other; all threads work on one image."""
        for image in images:
            self.layers(image[None])

    def abreast(self, images: Sequence[Tensor]) -> None:
        """Run images through as :func:`abreast` does."""
        abreast(self.layers, images)


def abreast(network: Callable[[Tensor], object], images: Sequence[Tensor]) -> None:
    """Run images through a network on one thread each, as many at a time as there are threads."""
    threads = torch.get_num_threads()

    def one(image: Tensor) -> None:
        with torch.inference_mode():
            network(image[None])

    with ThreadPoolExecutor(threads, initializer=_compute_alone) as pool:
        list(pool.map(one, images))
    torch.set_num_threads(threads)  # what the pool's threads set is what later ones begin with


def _compute_alone() -> None:
    torch.get_num_threads()
    torch.set_num_threads(1)


def enlarged(maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Build the hypercolumns of every pixel: ReLU, enlarge, concatenate.

    Parameters
    ----------
    maps : sequence of Tensor, each (1, C, h, w)
        The taps of one image, before their ReLU.
    size : (H, W)

    Returns
    -------
    Tensor of float32, shape (1, D, H, W)
    """
    whole = maps[0].new_empty(1, sum(m.shape[1] for m in maps), *size)
    first = 0
    for m in maps:  # into its place at once, which saves the copy that torch.cat makes
        part = whole[:, first : first + m.shape[1]]
        part.copy_(interpolate(m.relu(), size=size, mode="bilinear", align_corners=False))
        first += m.shape[1]
    return whole


class OriginalExtraction:
    """Stage one: the samples of every image, in one HDF5 file.

    Images are decoded in a thread ahead of the network. Nothing but the samples is written, not
    synced, and without digests: less than the pipeline writes.

    Parameters
    ----------
    dataset : VocDataset
    backbone : Backbone
    preprocessing : Preprocessing
    drawing : Drawing
        Which pixels; its features are the ReLU's, without context.
    """

    def __init__(
        self,
        dataset: VocDataset,
        backbone: Backbone,
        preprocessing: Preprocessing,
        drawing: Drawing,
    ) -> None:
        self._dataset, self._network = dataset, PlainNetwork(backbone)
        self._preprocessing, self._drawing = preprocessing, drawing

    def run(self, image_ids: Sequence[str], out: Path) -> None:
        """Extract the images into a file."""
        columns, labels = [], []
        for image_id, image, label in self._decoded(image_ids):
            found, classes = self.sample(image_id, image, label)
            columns.append(found)
            labels.append(classes)
        with h5py.File(out, "w") as file:
            file["features"] = np.concatenate(columns)
            file["label"] = np.concatenate(labels)

    @torch.inference_mode()
    def sample(
        self, image_id: str, image: Tensor, label: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Sample the hypercolumns (n, D) of one image (3, H, W), and their classes (n,)."""
        whole = enlarged(self._network.maps(image[None]), (label.shape[0], label.shape[1]))[0]
        ys, xs = draw_pixels(label, image_id, self._drawing, void=self._dataset.void)
        return whole[:, torch.from_numpy(ys), torch.from_numpy(xs)].T.numpy(), label[ys, xs]

    def _decoded(self, image_ids: Sequence[str]) -> Iterator[tuple[str, Tensor, NDArray[np.uint8]]]:
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(self._decode, image_ids[0])
            for image_id, following in zip(image_ids, [*image_ids[1:], None], strict=True):
                image, label = coming.result()
                if following is not None:
                    coming = pool.submit(self._decode, following)
                yield image_id, image, label

    def _decode(self, image_id: str) -> tuple[Tensor, NDArray[np.uint8]]:
        image = self._preprocessing.resize_image(self._dataset.read_image(image_id))
        label = self._preprocessing.resize_mask(self._dataset.read_mask(image_id))
        return torch.from_numpy(self._preprocessing.normalize(image)), label


class OriginalTraining:
    """Stage two: a perceptron on all pixels of one image at a time, the network run anew.

    Parameters
    ----------
    backbone : Backbone
    weights, biases : sequence of Tensor
        What the layers begin with, (K, D) and (K,).
    learning_rate : float
        Adam's.
    void : int
        Pixels of this label do not count.
    """

    def __init__(
        self,
        backbone: Backbone,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        *,
        learning_rate: float,
        void: int,
    ) -> None:
        layers: list[nn.Module] = []
        for weight, bias in zip(weights, biases, strict=True):
            layer = nn.Conv2d(weight.shape[1], weight.shape[0], kernel_size=1)
            with torch.no_grad():
                layer.weight.copy_(weight[:, :, None, None])
                layer.bias.copy_(bias)
            layers += [layer, nn.ReLU()]
        self.network = nn.Sequential(*layers[:-1])
        self._plain, self._void = PlainNetwork(backbone), void
        self._optimizer = torch.optim.Adam(self.network.parameters(), lr=learning_rate)

    def step(self, batch: Sequence[tuple[Tensor, Tensor]]) -> float:
        """Take one step on images (3, H, W) and labels (H, W), one after the other; give the loss.

        The loss is the mean over the pixels of all of them, as one batch would give it.
        """
        self._optimizer.zero_grad()
        pixels = sum(int((label != self._void).sum()) for _, label in batch)
        total = 0.0
        for image, label in batch:
            with torch.no_grad():
                whole = enlarged(self._plain.maps(image[None]), (label.shape[0], label.shape[1]))
            loss = cross_entropy(
                self.network(whole), label[None].long(), ignore_index=self._void, reduction="sum"
            )
            (loss / pixels).backward()
            total += float(loss.detach())
        self._optimizer.step()
        return total / pixels

    def gradients(self) -> list[Tensor]:
        """Give the latest gradients of the weights (K, D), then of the biases (K,)."""
        layers = [layer for layer in self.network if isinstance(layer, nn.Conv2d)]
        weights = [layer.weight.grad[:, :, 0, 0] for layer in layers]
        return weights + [layer.bias.grad for layer in layers]
