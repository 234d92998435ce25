"""What a head is to give for an image, and the loss of what it gives."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pipeline.hypercolumn.grid import block_weights, cross_entropy_gradient


@dataclass(frozen=True)
class Target:
    """What a head is to give for an image, and how much each pixel counts.

    Attributes
    ----------
    label : Tensor of int64, shape (H, W)
        Class of every pixel, ``void`` where there is none.
    void : int
        Pixels with this label do not count.
    class_weights : Tensor of shape (n_classes,)
        Weight of a pixel by its class.
    smoothing : Tensor of shape (n_classes,)
        Label smoothing: the share of the target that goes to each class rather than to the true
        one (Szegedy et al., CVPR 2016, section 7).
    normalizer : float
        What the summed loss is divided by.
    """

    label: Tensor
    void: int
    class_weights: Tensor
    smoothing: Tensor
    normalizer: float

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self.label.shape[0], self.label.shape[1]

    def loss(self, logits: Tensor, start: int, stop: int, grid: int = 1) -> tuple[Tensor, Tensor]:
        """Compute the cross-entropy of some rows of the image, and its gradient.

        The target of a pixel of class y is ``(1 - sum(smoothing)) * onehot(y) + smoothing``, and
        its loss counts ``class_weights[y]`` times.

        Parameters
        ----------
        logits : Tensor of float32, shape (n_classes, (stop - start) * W)
            On a grid those of all its classifiers, one after the other.
        start, stop : int
            Rows of the image.
        grid : int
            K of the grid.

        Returns
        -------
        loss : Tensor of shape ()
            Summed over pixels and divided by the normaliser.
        gradient : Tensor of the shape of the logits
        """
        true, weights = self.pixels(start, stop)
        share = 1 - self.smoothing.sum()
        if grid > 1:
            cells = block_weights(self.size, grid, start, stop, logits.device)
            target = self.smoothing[:, None].repeat(1, len(true))
            target.scatter_add_(0, true[None], share.expand(1, len(true)))
            log_p, gradient = cross_entropy_gradient(logits, cells, target)
            return -target.mul_(log_p).sum(dim=0).dot(weights), gradient.mul_(weights)
        log_p = logits.log_softmax(dim=0)
        of_target = (self.smoothing @ log_p).addcmul_(share, log_p.gather(0, true[None])[0])
        gradient = log_p.exp_().sub_(self.smoothing[:, None])
        gradient.scatter_add_(0, true[None], -share.expand(1, len(true)))
        return -of_target.dot(weights), gradient.mul_(weights)

    def pixels(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Give the class of the pixels in some rows, and how much each counts.

        Returns
        -------
        true : Tensor of int64, shape ((stop - start) * W,)
            Of void pixels any.
        weights : Tensor of float32, shape ((stop - start) * W,)
        """
        true, weights = (pixels[start:stop].flatten() for pixels in self._pixels)
        return true, weights

    @cached_property
    def _pixels(self) -> tuple[Tensor, Tensor]:
        counts = self.label != self.void
        true = torch.where(counts, self.label, 0)
        return true, self.class_weights[true] * counts / self.normalizer
