"""Loops over numbers as machine code, and what they are made of: vectors, and products of matrices.

For what torch has no fast operation for. Nothing here knows of images.
"""

from pipeline.compiled.function import Compiled

__all__ = ["Compiled"]
