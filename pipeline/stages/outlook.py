"""What an extraction is about to do, said before it begins."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.cache import (
    Drawing,
    ShardPlan,
    changed_images,
    samples_are_current,
    samples_path,
    total_images,
)
from pipeline.identity import Identity
from pipeline.progress import Progress
from pipeline.stages.image_records import ImageRecords
from pipeline.stages.part import Plans
from pipeline.stages.room import bytes_of_samples, bytes_of_shards, require_room

_NAMED = 5
"""How many of many images are named in a line."""


@dataclass(frozen=True)
class Outlook:
    """What is said of the work on a cache, and whether there is room for it.

    Attributes
    ----------
    out : Path
        The cache.
    identity : Identity
        What the features are made with.
    records : ImageRecords
        Where images come from.
    drawing : Drawing
        Which pixel samples to draw.
    progress : Progress
        Who is told.
    """

    out: Path
    identity: Identity
    records: ImageRecords
    drawing: Drawing
    progress: Progress

    def announce(self, plans: Plans) -> None:
        """Say which images and which taps there are."""
        images = ", ".join(f"{total_images(plans.shards[split])} {split}" for split in plans.shards)
        taps = ", ".join(f"{tap.name} ({tap.channels})" for tap in self.identity.taps)
        self.progress.say(f"images: {images}")
        if not plans.part.is_all:
            own = ", ".join(f"{total_images(plans.own(split))} {split}" for split in plans.shards)
            self.progress.say(f"part {plans.part} of them: {own}")
        how = "" if self.identity.compute == "float32" else f" in {self.identity.compute}"
        self.progress.say(
            f"taps of {self.identity.backbone}{how}: {taps}; "
            f"{sum(self.identity.tap_channels)} channels"
        )

    def look_ahead(
        self, splits: Collection[str], plans: Plans, done: Callable[[ShardPlan], bool]
    ) -> None:
        """Say how much is to be written of splits, and which images have changed.

        Parameters
        ----------
        splits : collection of str
        plans : Plans
        done : callable
            Tell whether a shard is done.

        Raises
        ------
        SpaceError
            If there is no room for it.
        """
        own = [plan for split in splits for plan in plans.own(split)]
        left = [plan for plan in own if not done(plan)]
        samples = sum(
            bytes_of_samples(images, self.records, self.identity, self.drawing)
            for split in splits
            for images in self._unsampled(split, plans, left)
        )
        shards = bytes_of_shards(left, self.records, self.identity)
        # While the samples of the shards are put together, they lie there twice.
        self.progress.say(require_room(self.out, shards + samples, samples, self.identity))
        if changed := changed_images(self.out, own, self.identity):
            named = ", ".join(changed[:_NAMED]) + ", ..." * (len(changed) > _NAMED)
            self.progress.say(f"{len(changed)} images have changed and are done again: {named}")

    def _unsampled(
        self, split: str, plans: Plans, left: Sequence[ShardPlan]
    ) -> Iterator[Sequence[str]]:
        """Give the images of a split if its samples are not what they shall be."""
        own = plans.own(split)
        headers = [plan.header(self.identity) for plan in own]
        sources = {i: s for h in headers if h is not None for i, s in h.details.images.items()}
        path = samples_path(self.out, split)
        if any(plan.split == split for plan in left):
            yield [image_id for plan in own for image_id in plan.sources]
        elif plans.part.is_all and not samples_are_current(
            path, sources, self.identity, self.drawing
        ):
            yield list(sources)
