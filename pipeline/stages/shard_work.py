"""The work of an extraction: which shards are to be written, and writing them."""

from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import xxhash

from pipeline.cache import (
    MANIFEST_NAME,
    Drawing,
    FeatureCache,
    Manifest,
    SampleDrawer,
    ShardPlan,
    Sources,
    SplitSummary,
    Stock,
    StoredImage,
    changed_images,
    in_turn,
    joint_session,
    make_way,
    manifest_of,
    open_samples,
    plan_shards,
    read_manifest,
    refuse_other_cache,
    retired_shards,
    samples_are_current,
    samples_path,
    set_aside,
    shard_samples_path,
    total_images,
    write_index,
    write_manifest,
    write_samples,
    writing,
    written_shard,
)
from pipeline.errors import CacheError, CacheNotFoundError
from pipeline.identity import Identity
from pipeline.progress import Progress
from pipeline.software import versions
from pipeline.stages.device import on_one_thread
from pipeline.stages.image_records import ImageRecords
from pipeline.stages.part import Part, Plans
from pipeline.stages.room import bytes_of_samples, bytes_of_shards, require_room
from pipeline.stages.split_samples import remove_shard_samples, write_split_samples

_NAMED = 5
"""How many of many images are named in a line."""


class ShardWork:
    """What is to be done for a cache, and doing it, together with other processes.

    Parameters
    ----------
    out : Path
        The cache.
    identity : Identity
        What the features are made with.
    records : ImageRecords
        Where images come from.
    drawing : Drawing
        Which pixel samples to draw.
    images_per_shard : int
    compression : {None, "gzip", "lzf"}
    dataset : str
        Name of the data set.
    skip : bool
        Whether images that cannot be used are left out.
    progress : Progress
    """

    def __init__(
        self,
        out: Path,
        identity: Identity,
        records: ImageRecords,
        drawing: Drawing,
        *,
        images_per_shard: int,
        compression: Literal["gzip", "lzf"] | None,
        dataset: str,
        skip: bool,
        progress: Progress,
    ) -> None:
        self._out, self._identity, self._drawing = out, identity, drawing
        self._records, self._progress = records, progress
        self._images_per_shard, self._compression = images_per_shard, compression
        self._dataset, self._skip = dataset, skip
        self.plans = Plans()
        self._unsound: set[Path] = set()

    def plan(self, splits: Sequence[str], part: Part) -> None:
        """Read the split files and digest the images and masks of a part of the shards.

        Raises
        ------
        DataError
            If one cannot be read, and is not to be skipped.
        """
        self.plans = Plans(part=part)
        for split in splits:
            image_ids, self.plans.bad_lines[split] = self._records.listed(split)
            unread: dict[str, Sources] = {image_id: {} for image_id in image_ids}
            self.plans.shards[split] = [
                replace(plan, sources=self._records.sources(tuple(plan.sources)))
                if part.holds(plan)
                else plan
                for plan in plan_shards(self._out, split, unread, self._images_per_shard)
            ]

    @contextmanager
    def session(self, *, replace: bool, thorough: bool) -> Iterator[None]:
        """Make way for the shards, and clean up in the end; see :func:`joint_session`.

        Raises
        ------
        CacheMismatchError
            If a cache lies there that was made otherwise, and ``replace`` is not set.
        SpaceError
            If there is not enough room.
        BusyError
            If another process extracts something else there.
        """
        shards = self.plans.shards
        everything = [plan for plans in shards.values() for plan in plans]
        own = [plan for split in shards for plan in self.plans.own(split)]

        known = False  # whether it has been said what is to be done

        def begin() -> None:
            nonlocal known
            if not replace:
                refuse_other_cache(self._out, self._identity)
            self._announce()
            self._look_ahead(own)
            make_way(self._out, everything, self._identity)
            known = True

        def begin_split(split: str) -> None:
            if not known:
                self._look_ahead(self.plans.own(split))
            set_aside(self._out, shards[split])
            if thorough:
                self._remove_damaged_samples(split)

        def end_split(split: str) -> None:
            if self.missing(split):
                return  # the other parts still need what is there
            for path in retired_shards(self._out, split):
                path.unlink()
            remove_shard_samples(self._out, split)

        if thorough:
            checked = self._progress.track(own, total=len(own), unit="shards", what="verifying")
            self._unsound = {plan.path for plan in checked if not self._is_sound(plan)}
        with ExitStack() as sessions:
            join = sessions.enter_context
            join(joint_session(self._out, self._identity.fingerprint, begin=begin))
            if not known:
                self._announce()
            for split in sorted(shards):  # in one order, lest two wait for one another
                join(
                    joint_session(
                        self._out,
                        self._key(split, thorough=thorough),
                        split=split,
                        begin=partial(begin_split, split),
                        end=partial(end_split, split),
                    )
                )
            if done := sum(len(plan.sources) for plan in own if self._is_done(plan)):
                self._progress.say(f"{done} images are in the cache already and stay as they are")
            yield

    def write(self) -> int:
        """Write shards, and the samples of splits that are complete; see :class:`Part`.

        Returns
        -------
        int
            How many images were computed.

        Raises
        ------
        DataError
            If no image of a split can be used.
        """
        computed = 0
        for split in self.plans.shards:  # one by one: each can be used as soon as it is there
            computed += self._write_shards(split)
            self._write_samples(split)
        if not self.plans.part.is_all:
            for split in self.plans.shards:  # others may have completed it since
                self._write_samples(split)
        return computed

    def _write_samples(self, split: str) -> None:
        if self.missing(split) == 0:
            write_split_samples(self._out, split, self._drawing, self._progress)

    def _write_shards(self, split: str) -> int:
        left = [plan for plan in self.plans.own(split) if not self._is_done(plan)]
        stock = Stock(self._out, self._identity)
        computed = 0
        # An interruption leaves nothing open, not even while somebody keeps its traceback.
        with on_one_thread(), closing(stock), closing(self._write(left, stock)) as written:
            for is_new in self._progress.track(
                written, total=total_images(left), unit="images", what=f"extracting {split}"
            ):
                computed += is_new
        return computed

    def missing(self, split: str) -> int:
        """Count the shards of a split that are not there, and are left to other parts."""
        # Those with other images have been set aside.
        others = (plan for plan in self.plans.shards[split] if not self.plans.part.holds(plan))
        return sum(plan.header(self._identity) is None for plan in others)

    def found(self) -> dict[str, SplitSummary]:
        """Describe what is there of the splits."""
        try:
            cache = FeatureCache(self._out)
        except CacheNotFoundError:
            return {}
        splits = manifest_of(cache, {}, self.plans.bad_lines).splits
        return {name: found for name, found in splits.items() if name in self.plans.shards}

    def left(self) -> list[ShardPlan]:
        """List the shards that this run has still to write."""
        own = (plan for split in self.plans.shards for plan in self.plans.own(split))
        return [plan for plan in own if not self._is_done(plan)]

    def write_lists(self, made_from: Mapping[str, Any]) -> Manifest:
        """Write the index and the manifest of all that is there by now, by whomever."""
        with writing(self._out / MANIFEST_NAME):
            cache = FeatureCache(self._out)
            bad_lines = self._known_bad_lines() | self.plans.bad_lines
            manifest = manifest_of(cache, made_from, bad_lines)
            write_index(cache)
            write_manifest(self._out, manifest)
        return manifest

    def _known_bad_lines(self) -> dict[str, dict[str, str]]:
        try:
            known = read_manifest(self._out)
        except CacheError:
            return {}
        return {name: split.bad_lines for name, split in known.splits.items()}

    def _write(self, left: Sequence[ShardPlan], stock: Stock) -> Generator[bool]:
        """Write shards; for every image, tell whether it had to be computed."""
        turns = in_turn(left, path=lambda p: p.path, done=self._is_done, on_wait=self._wait)
        with closing(turns):
            for plan in turns:
                yield from self._write_shard(plan, stock)

    def _write_shard(self, plan: ShardPlan, stock: Stock) -> Generator[bool]:
        drawer = SampleDrawer(self._identity, self._drawing)
        with written_shard(
            plan,
            self._identity,
            dataset=self._dataset,
            software=versions(),
            compression=self._compression,
        ) as writer:
            for image, is_new in self._images(plan, stock, writer.skipped):
                writer.add(image)
                drawer.draw_stored(image)
                yield is_new
        stock.close()  # the shard's file is another one now
        self._unsound.discard(plan.path)
        sources = {i: plan.sources[i] for i in plan.sources if i not in writer.skipped}
        part = shard_samples_path(plan.path)
        write_samples(part, drawer.samples(), sources, self._identity)

    def _images(
        self, plan: ShardPlan, stock: Stock, skipped: dict[str, str]
    ) -> Iterator[tuple[StoredImage, bool]]:
        """Give the images of a shard in order: those in stock as they are, the others computed."""
        held = stock.of(plan)
        missing = {i: sources for i, sources in plan.sources.items() if i not in held}
        computed = self._records.records(missing, skipped)
        upcoming = next(computed, None)
        for image_id, sources in plan.sources.items():
            if image_id in held:
                try:
                    yield held[image_id].stored(image_id), False
                except CacheError as error:
                    self._progress.say(f"{error}; computing it again")
                    for record in self._records.records({image_id: sources}, skipped):
                        yield record.stored(self._identity), True
            elif upcoming is not None and upcoming.image_id == image_id:
                yield upcoming.stored(self._identity), True
                upcoming = next(computed, None)

    def _is_done(self, plan: ShardPlan) -> bool:
        sound = plan.path not in self._unsound or self._is_sound(plan)
        return sound and plan.is_met_by(plan.header(self._identity), skip=self._skip)

    def _is_sound(self, plan: ShardPlan) -> bool:
        """Read every value of a planned shard, if it is there."""
        header = plan.header(self._identity)
        if header is None:
            return True  # it is going to be written anyway
        stock = Stock(self._out, self._identity)
        try:
            for image_id, view in stock.of(plan).items():
                view.stored(image_id)
        except CacheError:
            return False
        finally:
            stock.close()
        return True

    def _key(self, split: str, *, thorough: bool) -> str:
        """Hash what is to be done for a split."""
        whole = self.plans.part.is_all
        settings = f"{self._drawing.model_dump_json()} {thorough} {whole}"
        hasher = xxhash.xxh3_128(f"{settings}\n".encode())
        for plan in self.plans.shards[split]:
            # A part has not read the files of the others.
            images = list(plan.sources.items()) if whole else list(plan.sources)
            hasher.update(f"{plan.path.name} {images}\n".encode())
        return hasher.hexdigest()

    def _wait(self, count: int) -> None:
        self._progress.say(f"waiting for other processes, which are writing {count} of the files")

    def _announce(self) -> None:
        """Say what is about to happen."""
        plans, part = self.plans.shards, self.plans.part
        images = ", ".join(f"{total_images(plans[split])} {split}" for split in plans)
        taps = ", ".join(f"{tap.name} ({tap.channels})" for tap in self._identity.taps)
        self._progress.say(f"images: {images}")
        if not part.is_all:
            own = ", ".join(f"{total_images(self.plans.own(split))} {split}" for split in plans)
            self._progress.say(f"part {part} of them: {own}")
        self._progress.say(
            f"taps of {self._identity.backbone}: {taps}; "
            f"{sum(self._identity.tap_channels)} channels"
        )

    def _look_ahead(self, plans: Sequence[ShardPlan]) -> None:
        """Name the images that have changed, and refuse to begin if there is no room."""
        self._require_room(plans)
        if changed := changed_images(self._out, plans, self._identity):
            named = ", ".join(changed[:_NAMED]) + ", ..." * (len(changed) > _NAMED)
            self._progress.say(f"{len(changed)} images have changed and are done again: {named}")

    def _remove_damaged_samples(self, split: str) -> None:
        remove_shard_samples(self._out, split)
        path = samples_path(self._out, split)
        try:
            open_samples(path).close()
        except CacheError:
            path.unlink(missing_ok=True)

    def _require_room(self, plans: Sequence[ShardPlan]) -> None:
        """Say how much is to be written, and refuse if there is no room for it."""
        left = [plan for plan in plans if not self._is_done(plan)]
        samples = sum(
            bytes_of_samples(images, self._records, self._identity, self._drawing)
            for images in self._unsampled({plan.split for plan in plans})
        )
        shards = bytes_of_shards(left, self._records, self._identity.dtype)
        # While the samples of the shards are put together, they lie there twice.
        self._progress.say(require_room(self._out, shards + samples, samples, self._identity))

    def _unsampled(self, splits: Collection[str]) -> Iterator[list[str]]:
        """Give the images of each split whose samples are not what they shall be."""
        for split in splits:
            plans = self.plans.own(split)
            headers = [plan.header(self._identity) for plan in plans]
            sources = {i: s for h in headers if h is not None for i, s in h.details.images.items()}
            path = samples_path(self._out, split)
            if not all(self._is_done(plan) for plan in plans):
                yield [image_id for plan in plans for image_id in plan.sources]
            elif self.plans.part.is_all and not samples_are_current(
                path, sources, self._identity, self._drawing
            ):
                yield list(sources)
