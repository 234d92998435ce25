"""Every error this software raises on purpose.

::

    PipelineError
    ├── DataError (ValueError)           mend the data set, or name another folder
    ├── BackboneError (ValueError)       name another backbone, tap or layer
    ├── WeightsError (ValueError)        give the weights that belong to the backbone
    ├── ParamsError (ValueError)         correct a parameter or an option
    ├── CacheError
    │   ├── CacheNotFoundError (FileNotFoundError)   run ``pipeline extract`` first
    │   ├── CacheMismatchError           use another cache, or extract anew
    │   ├── CacheDamagedError            run ``pipeline cache repair``
    │   └── CacheOverflowError (OverflowError)       choose a wider dtype or scaled input
    ├── ClassifierError (ValueError)     choose another estimator or draw more samples
    ├── HeadError (ValueError)           use a head that belongs to this cache or backbone
    ├── BusyError                        wait for the other run, or write somewhere else
    ├── DeviceMemoryError (MemoryError)  use smaller input, or the CPU
    ├── PeerLostError                    see what the other process said, and run it again
    └── WriteError (OSError)             see to the folder's rights, or write somewhere else
        └── SpaceError                   make room, or write somewhere else

A message is one line: what is wrong, where, and what to do about it.
"""

import errno
from pathlib import Path

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class PipelineError(Exception):
    """Base of every error that a user of this software can mend."""


class DataError(PipelineError, ValueError):
    """An image, a mask or a split file is missing or not what it should be."""


class BackboneError(PipelineError, ValueError):
    """A backbone or a tap does not exist, or cannot serve as one."""


class WeightsError(PipelineError, ValueError):
    """A weights file cannot be read, or belongs to another network."""


class ParamsError(PipelineError, ValueError):
    """A parameter or an option is unknown, misspelt or out of range."""


class CacheError(PipelineError):
    """Base of what can be wrong with a feature cache."""


class CacheNotFoundError(CacheError, FileNotFoundError):
    """The cache, a split of it or an image in it does not exist."""


class CacheMismatchError(CacheError):
    """The cache was made from something else than what is asked for."""


class CacheDamagedError(CacheError):
    """Something in the cache does not match its digest, or is not where it belongs."""


class CacheOverflowError(CacheError, OverflowError):
    """A feature does not fit the dtype of the cache."""


class ClassifierError(PipelineError, ValueError):
    """A pixel classifier cannot be built, fitted, or turned into what is asked for."""


class HeadError(PipelineError, ValueError):
    """A head file cannot be read, or belongs to other taps, weights or classes."""


class BusyError(PipelineError):
    """Another run is writing what this one is to write."""


class DeviceMemoryError(PipelineError, MemoryError):
    """A single image needs more memory than the GPU has."""


class PeerLostError(PipelineError):
    """A process that this one works together with has ended, or cannot be reached."""


class WriteError(PipelineError, OSError):
    """A file or folder cannot be written."""


class SpaceError(WriteError):
    """There is not enough room on the disk for what a run will write."""


def cannot_write(path: Path, error: OSError) -> WriteError:
    """Say which file it is that the operating system could not write, and what to do."""
    if error.errno in _NO_ROOM:
        return SpaceError(
            f"{path}: no room to write it ({error.strerror}); make room and run it again, "
            "what is finished is kept"
        )
    return WriteError(
        f"{path}: cannot be written ({error.strerror}); see to its folder's rights and disk, "
        "or write somewhere else"
    )
