"""Loops over numbers as machine code, and what they are made of: vectors, and products of matrices.

For what torch has no fast operation for. Nothing here knows of images.
"""

from numba import prange

from pipeline.compiled.function import Compiled, SharedOut, threads_to_share

__all__ = ["Compiled", "SharedOut", "prange", "threads_to_share"]
