"""Reading the cache in shuffled order against reading the same bytes with NumPy."""

from pathlib import Path

import numpy as np

from benchmarks.machine import machine
from benchmarks.results import Result, Row, at_least
from benchmarks.settings import Settings
from benchmarks.subjects import natural_scenes
from benchmarks.timing import Spread, in_turns, ratio
from pipeline import FeatureCache, Preprocessing, VocDataset, extract, load_backbone

DTYPES = ("float16", "float32", "int8")


def run(settings: Settings) -> Result:
    """Measure."""
    images, rounds = settings.pick(64, 8, 2), settings.times(15, 3)
    result = Result(
        "reading",
        "Reading the cache",
        machine(),
        {"scale": settings.scale, "rounds": rounds, "images": images, "side": settings.side},
        notes=[
            "Per image, every round in another order, digests checked, files in the operating "
            "system's cache. `numpy.fromfile` reads the same number of bytes from one file per "
            "image. 'maps' are what training reads, as they are stored (`CachedSplit.stored_maps`) "
            "and in float32 (`CachedSplit.maps`), against their stored bytes; 'all' is also the "
            "image and its labels, of which one is inflated (`CachedSplit.stored`).",
        ],
    )
    with settings.folder() as folder:
        dataset = natural_scenes(folder / "scenes", images)
        for name in settings.backbones:
            for dtype in DTYPES:
                place = folder / f"{name}-{dtype}"
                result.rows += _rows(name, dtype, dataset, place, settings, rounds)
    result.rows.sort(key=lambda row: row.goal is None)
    return result


def _rows(
    name: str, dtype: str, dataset: VocDataset, place: Path, settings: Settings, rounds: int
) -> list[Row]:
    backbone = load_backbone(name, weights="random")
    preprocessing = Preprocessing(input_size=str(settings.side))
    images_per_shard = settings.pick(8, 8, 1)  # more shards than are kept open at a time
    extract(
        dataset,
        backbone,
        place / "cache",
        splits=["train"],
        preprocessing=preprocessing,
        dtype=dtype,
        images_per_shard=images_per_shard,
    )
    cache = FeatureCache(place / "cache")
    split, taps = cache["train"], cache.identity.tap_names
    whole, maps = _plain_files(place, cache)
    order = np.array(split.image_ids)
    shuffle = np.random.default_rng(0).shuffle

    def everything() -> None:
        shuffle(order)
        for image_id in order:
            split.stored(str(image_id))

    def as_stored() -> None:
        shuffle(order)
        for image_id in order:
            split.stored_maps(str(image_id), taps)

    def decoded() -> None:
        shuffle(order)
        for image_id in order:
            split.maps(str(image_id), taps)

    def plain_all() -> None:
        shuffle(order)
        for image_id in order:
            np.fromfile(place / str(image_id), np.uint8)

    def plain_maps() -> None:
        shuffle(order)
        for image_id in order:
            np.fromfile(place / str(image_id), np.uint8, count=maps)

    seconds = in_turns(
        {
            "maps as stored": as_stored,
            "maps in float32": decoded,
            "fromfile, maps": plain_maps,
            "all": everything,
            "fromfile, all": plain_all,
        },
        rounds,
    )
    cache.close()
    what = f"{name}, {dtype}"
    per_image = {key: [s / len(order) for s in values] for key, values in seconds.items()}
    return [
        Row(
            f"{what}: fromfile / reading maps as stored",
            "x",
            ratio(per_image["fromfile, maps"], per_image["maps as stored"]),
            at_least(0.8),
            f"{maps / 1e6:.2f} MB",
        ),
        Row(
            f"{what}: fromfile / reading all as stored",
            "x",
            ratio(per_image["fromfile, all"], per_image["all"]),
            at_least(0.8),
            f"{whole / 1e6:.2f} MB",
        ),
        Row(
            f"{what}: fromfile / reading maps in float32",
            "x",
            ratio(per_image["fromfile, maps"], per_image["maps in float32"]),
            note=f"{maps / 1e6:.2f} MB",
        ),
        *(
            Row(f"{what}: {key}, per image", "ms", Spread.of(values).times(1e3))
            for key, values in per_image.items()
        ),
    ]


def _plain_files(place: Path, cache: FeatureCache) -> tuple[int, int]:
    """Write one file per image, its maps first; give the bytes of all and of the maps."""
    split, taps = cache["train"], cache.identity.tap_names
    whole = maps = 0
    for image_id in split.image_ids:
        arrays = split.stored(image_id).arrays
        maps = sum(arrays[tap].values.nbytes for tap in taps)
        parts = [array.values.tobytes() for array in arrays.values()]
        whole = sum(map(len, parts))
        (place / image_id).write_bytes(b"".join(parts))
    return whole, maps
