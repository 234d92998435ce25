"""The work of an extraction: which shards there shall be, and who is to write them when."""

from collections.abc import Iterator, Mapping, Sequence
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
    ShardPlan,
    Sources,
    SplitSummary,
    check_structure,
    joint_session,
    make_way,
    manifest_of,
    open_samples,
    plan_shards,
    read_manifest,
    refuse_other_cache,
    retired_shards,
    samples_path,
    set_aside,
    total_images,
    write_index,
    write_manifest,
    writing,
)
from pipeline.errors import CacheError, CacheNotFoundError
from pipeline.identity import Identity
from pipeline.progress import Progress
from pipeline.stages.image_records import ImageRecords
from pipeline.stages.outlook import Outlook
from pipeline.stages.part import Part, Plans
from pipeline.stages.shard_writing import ShardWriting
from pipeline.stages.split_samples import remove_shard_samples, write_split_samples
from pipeline.threads import on_one_thread
from pipeline.wholefile import remove_leftovers


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
    compression : {None, "gzip"}
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
        compression: Literal["gzip"] | None,
        dataset: str,
        skip: bool,
        progress: Progress,
    ) -> None:
        self._out, self._identity, self._drawing = out, identity, drawing
        self._records, self._progress = records, progress
        self._images_per_shard, self._skip = images_per_shard, skip
        self._outlook = Outlook(out, identity, records, drawing, progress)
        self._writing = ShardWriting(
            out, identity, records, drawing, dataset, compression, progress
        )
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
            self._outlook.announce(self.plans)
            self._outlook.look_ahead(shards, self.plans, self._is_done)
            make_way(self._out, everything, self._identity)
            known = True

        def begin_split(split: str) -> None:
            if not known:
                self._outlook.look_ahead([split], self.plans, self._is_done)
            set_aside(self._out, shards[split])
            if thorough:
                self._remove_damaged_samples(split)

        def end_split(split: str) -> None:
            remove_leftovers(self._out / f"{split}-*")  # once, not for each file
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
                self._outlook.announce(self.plans)
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
        written = self._writing.write(left, done=self._is_done, written=self._note_written)
        computed = 0
        with on_one_thread(), closing(written) as images:
            for is_new in self._progress.track(
                images, total=total_images(left), unit="images", what=f"extracting {split}"
            ):
                computed += is_new
        return computed

    def _note_written(self, plan: ShardPlan) -> None:
        self._unsound.discard(plan.path)

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

    def _is_done(self, plan: ShardPlan) -> bool:
        sound = plan.path not in self._unsound or self._is_sound(plan)
        return sound and plan.is_met_by(plan.header(self._identity), skip=self._skip)

    def _is_sound(self, plan: ShardPlan) -> bool:
        """Read every value of a planned shard, if it is there."""
        header = plan.header(self._identity)
        if header is None:
            return True  # it is going to be written anyway
        try:
            check_structure(header)
            with closing(FeatureCache(self._out, [header])) as cache:
                for image_id in header.details.images:
                    cache.splits[header.details.split].stored(image_id)
        except CacheError:
            return False
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

    def _remove_damaged_samples(self, split: str) -> None:
        remove_shard_samples(self._out, split)
        path = samples_path(self._out, split)
        try:
            open_samples(path).close()
        except CacheError:
            path.unlink(missing_ok=True)
