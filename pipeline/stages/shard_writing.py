"""Writing shards: every image computed, or taken over from what is there, and its samples drawn."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from pipeline.cache import (
    Drawing,
    Drawn,
    ImageRecord,
    SampleDrawer,
    ShardPlan,
    Sources,
    Stock,
    StoredImage,
    in_turn,
    shard_samples_path,
    write_samples,
    written_shard,
)
from pipeline.errors import CacheError
from pipeline.identity import Identity
from pipeline.progress import Progress
from pipeline.software import versions
from pipeline.stages.image_records import ImageRecords

_Encoded: TypeAlias = Callable[[ImageRecord], tuple[StoredImage, Drawn]]


@dataclass(frozen=True)
class ShardWriting:
    """How the shards of a cache are written.

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
    dataset : str
        Name of the data set.
    compression : {None, "gzip"}
    progress : Progress
    """

    out: Path
    identity: Identity
    records: ImageRecords
    drawing: Drawing
    dataset: str
    compression: Literal["gzip"] | None
    progress: Progress

    def write(
        self,
        left: Sequence[ShardPlan],
        *,
        done: Callable[[ShardPlan], bool],
        written: Callable[[ShardPlan], None],
    ) -> Generator[bool]:
        """Write shards together with other processes; for every image, tell whether it is new.

        Close it after use: an interruption leaves nothing open then, not even while somebody keeps
        its traceback.

        Parameters
        ----------
        left : sequence of ShardPlan
        done : callable
            Tell whether a shard is done, by whomever.
        written : callable
            Called with a shard that is in its place.
        """
        stock = Stock(self.out, self.identity)
        turns = in_turn(left, path=lambda p: p.path, done=done, on_wait=self._wait)
        with closing(stock), closing(turns):
            for plan in turns:
                drawer = SampleDrawer(self.identity, self.drawing)
                skipped: dict[str, str] = {}
                yield from self._write_shard(plan, stock, drawer, skipped)
                stock.close()  # the shard's file is another one now
                written(plan)
                sources = {i: plan.sources[i] for i in plan.sources if i not in skipped}
                part = shard_samples_path(plan.path)
                write_samples(part, drawer.samples(), sources, self.identity)

    def _write_shard(
        self, plan: ShardPlan, stock: Stock, drawer: SampleDrawer, skipped: dict[str, str]
    ) -> Generator[bool]:
        first = self.records.first(self.identity)

        def encoded(record: ImageRecord) -> tuple[StoredImage, Drawn]:
            image = record.stored(self.identity, first)
            return image, drawer.drawn_stored(image)

        with written_shard(
            plan,
            self.identity,
            dataset=self.dataset,
            software=versions(),
            compression=self.compression,
            first=first,
        ) as writer:
            with closing(self._images(plan, stock, encoded, skipped)) as images:
                for image, drawn in images:
                    writer.add(image)
                    drawer.take(drawn or drawer.drawn_stored(image))
                    yield drawn is not None
            writer.skipped.update(skipped)

    def _images(
        self, plan: ShardPlan, stock: Stock, encoded: _Encoded, skipped: dict[str, str]
    ) -> Generator[tuple[StoredImage, Drawn | None]]:
        """Give the images of a shard in order: those in stock as they are, the others computed.

        Of the latter, samples have been drawn.
        """
        held = stock.of(plan)
        missing = {i: sources for i, sources in plan.sources.items() if i not in held}
        with closing(self.records.each(missing, encoded, skipped)) as computed:
            upcoming = next(computed, None)
            for image_id, sources in plan.sources.items():
                if image_id in held:
                    try:
                        yield held[image_id].stored(image_id), None
                    except CacheError as error:
                        self.progress.say(f"{error}; computing it again")
                        yield from self._again(image_id, sources, encoded, skipped)
                elif upcoming is not None and upcoming[0].image_id == image_id:
                    yield upcoming
                    upcoming = next(computed, None)

    def _again(
        self, image_id: str, sources: Sources, encoded: _Encoded, skipped: dict[str, str]
    ) -> Generator[tuple[StoredImage, Drawn]]:
        with closing(self.records.each({image_id: sources}, encoded, skipped)) as computed:
            yield from computed

    def _wait(self, count: int) -> None:
        self.progress.say(f"waiting for other processes, which are writing {count} of the files")
