"""Reading everything that a cache holds, to be compared with what was written."""

import random
import resource
from pathlib import Path

from pipeline import FeatureCache
from pipeline.cache import CachedSplit
from pipeline.cli import main


def digests_of(split: CachedSplit, image_id: str) -> str:
    """Read an image, and digest what was read."""
    arrays = split.stored(image_id).arrays
    return " ".join(f"{name} {array.digest}" for name, array in arrays.items())


def contents(directory: Path) -> dict[str, str]:
    """Read all images of a cache."""
    cache = FeatureCache(directory)
    found = {
        image_id: digests_of(split, image_id)
        for split in cache.splits.values()
        for image_id in split.image_ids
    }
    cache.close()
    return found


class Items:
    """The images of a split by number, as a loader of torch wants them."""

    def __init__(self, split: CachedSplit) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, number: int) -> tuple[str, str]:
        image_id = self.split.image_ids[number]
        return image_id, digests_of(self.split, image_id)


def read_at_random(directory: str, seed: int) -> int:
    """Read every image, in any order; the values of its map are the number in its name."""
    cache = FeatureCache(directory)
    (split,) = cache.splits.values()
    order = [*split.image_ids]
    random.Random(seed).shuffle(order)
    for image_id in order:
        assert (split.maps(image_id, ["tap"])[0] == int(image_id.removeprefix("image"))).all()
    return 0


def tell_peak(*arguments: str) -> int:
    """Run the command line, and print the most memory it took, in kB."""
    code = main(list(arguments))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return code
