"""The pixel samples of a split, put together from those of its shards."""

from collections.abc import Generator, Mapping
from contextlib import closing
from pathlib import Path

from pipeline.cache import (
    CachedSplit,
    Drawing,
    FeatureCache,
    SampleDrawer,
    Sources,
    in_turn,
    merge_samples,
    samples_are_current,
    samples_path,
    shard_samples,
    shard_samples_path,
    write_samples,
    writing,
)
from pipeline.errors import CacheDamagedError, DataError
from pipeline.progress import Progress


class SplitSamples:
    """The samples of one split, drawn shard by shard and by several processes if there are.

    Parameters
    ----------
    directory : Path
        The cache.
    split : CachedSplit
    drawing : Drawing
        Which samples.
    progress : Progress
    """

    def __init__(
        self, directory: Path, split: CachedSplit, drawing: Drawing, progress: Progress
    ) -> None:
        self._directory, self._split, self._drawing = directory, split, drawing
        self._progress = progress
        shards: dict[Path, dict[str, Sources]] = {}
        for image_id, shard in split.where.items():
            part = shards.setdefault(shard_samples_path(shard), {})
            part[image_id] = split.sources[image_id]
        self._shards = shards

    def write(self) -> None:
        """Write the samples file, unless it is there and current.

        Raises
        ------
        CacheDamagedError
            If the samples of a shard are damaged; the next run draws them again.
        """
        path = samples_path(self._directory, self._split.name)
        if self._current(path, self._split.sources):
            return
        left = [part for part in self._shards if not self._current(part, self._shards[part])]
        total = sum(len(self._shards[part]) for part in left)
        with closing(self._draw(left)) as drawn:
            for _ in self._progress.track(
                drawn, total=total, unit="images", what=f"sampling {self._split.name}"
            ):
                pass
        with writing(path):
            try:
                if not self._current(path, self._split.sources):
                    self._merge(path)
            except CacheDamagedError:
                remove_shard_samples(self._directory, self._split.name)
                raise

    def _draw(self, left: list[Path]) -> Generator[None]:
        turns = in_turn(
            left,
            path=lambda p: p,
            done=lambda p: self._current(p, self._shards[p]),
            on_wait=self._wait,
        )
        with closing(turns):
            for part in turns:
                drawer = SampleDrawer(self._split.identity, self._drawing)
                for image_id in self._shards[part]:
                    drawer.draw_cached(self._split, image_id)
                    yield
                write_samples(part, drawer.samples(), self._shards[part], self._split.identity)

    def _merge(self, path: Path) -> None:
        merge_samples(path, list(self._shards), self._split.sources, self._split.identity)

    def _current(self, path: Path, sources: Mapping[str, Sources]) -> bool:
        return samples_are_current(path, sources, self._split.identity, self._drawing)

    def _wait(self, count: int) -> None:
        self._progress.say(f"waiting for other processes, which are drawing {count} of the samples")


def write_split_samples(directory: Path, split: str, drawing: Drawing, progress: Progress) -> None:
    """Write the samples of a split of which all shards are there.

    Raises
    ------
    DataError
        If it has no image.
    """
    with closing(FeatureCache(directory)) as cache:
        if not len(cache[split]):
            raise DataError(
                f"{cache[split].dataset}: not one image of '{split}' can be used; "
                "run 'pipeline data check'"
            )
        SplitSamples(directory, cache[split], drawing, progress).write()


def remove_shard_samples(directory: Path, split: str) -> None:
    """Remove the samples of a split's single shards."""
    for path in shard_samples(directory, split):
        path.unlink(missing_ok=True)
