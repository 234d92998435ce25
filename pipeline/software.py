"""The versions of what computes, for the record."""

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

NAME = "hypercolumn-pipeline"
_PACKAGES = ("torch", "torchvision", "numpy", "numba", "scikit-learn", "h5py")


@cache  # each mask that is predicted names it
def own_version() -> str:
    """Give this software's version, or ``"0+unknown"`` where it runs without being installed."""
    try:
        return version(NAME)
    except PackageNotFoundError:
        return "0+unknown"


def versions() -> dict[str, str]:
    """Give the versions of Python, this software and the libraries that compute."""
    return dict(_versions())


@cache  # each shard names them, and looking them up takes as long as an image
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), NAME: own_version()}
    return found | {package: version(package) for package in _PACKAGES}
