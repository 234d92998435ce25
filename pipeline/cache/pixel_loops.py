"""Choosing pixels of groups, compiled.

Neighbours with one label, runs, are gone through in one go: there are far fewer than pixels.
"""

import numpy as np
from numpy.typing import NDArray

from pipeline.compiled import Compiled


@Compiled
def count(
    label: NDArray[np.uint8],
    groups: NDArray[np.int64],
    starts: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> int:
    """Find runs, and count the pixels of every group.

    Parameters
    ----------
    label : array of uint8, shape (n,)
        Without gaps.
    groups : array of int64, shape (256,)
        The group that a label belongs to, or -1.
    starts : array of int64, shape (n + 1,)
        Where the runs begin is put here, and behind that n.
    counts : array of int64, shape (g,)
        Zeros, to which the pixels are added.

    Returns
    -------
    int
        How many runs there are.
    """
    words = label[: len(label) // 8 * 8].view(np.uint64)
    runs = place = 0
    while place < len(label):
        value, starts[runs] = label[place], place
        of_word = np.uint64(value) * np.uint64(0x0101010101010101)
        place += 1
        while place < len(label):
            if place % 8 == 0 and place // 8 < len(words) and words[place // 8] == of_word:
                place += 8
            elif label[place] == value:
                place += 1
            else:
                break
        if groups[value] >= 0:
            counts[groups[value]] += place - starts[runs]
        runs += 1
    starts[runs] = len(label)
    return runs


@Compiled
def limits(
    counts: NDArray[np.int64], wanted: NDArray[np.int64], largest: NDArray[np.int64]
) -> None:
    """Give the largest values of the numbers that NumPy draws to choose so many of so many.

    Parameters
    ----------
    counts, wanted : array of int64, shape (g,)
        Of each group, how many there are and how many are chosen.
    largest : array of int64
        For each group of which k are wanted there are 2 k - 1: k to choose them, and others to put
        them in another order.
    """
    at = 0
    for group in range(len(counts)):
        for i in range(wanted[group]):
            largest[at + i] = counts[group] - wanted[group] + i
        at += wanted[group]
        for i in range(wanted[group] - 1, 0, -1):
            largest[at] = i
            at += 1


@Compiled
def distinct(
    counts: NDArray[np.int64],
    wanted: NDArray[np.int64],
    drawn: NDArray[np.int64],
    numbers: NDArray[np.int64],
) -> None:
    """Make distinct numbers of those drawn.

    Floyd's algorithm (Bentley and Floyd, "A sample of brilliance", CACM 30(9), 1987): the i-th of k
    numbers below n is drawn among those up to n - k + i; if it is taken already, that one is.

    Parameters
    ----------
    counts, wanted
        As :func:`limits` takes them.
    drawn
        Numbers up to those that it gives.
    numbers : array of int64, shape (m,)
        What is made of them; m is the sum of ``wanted``.
    """
    taken = np.zeros(counts.max(), np.bool_)
    at = start = 0
    for group in range(len(counts)):
        last = counts[group] - wanted[group]
        some = numbers[start : start + wanted[group]]
        for i in range(len(some)):
            number = drawn[at + i]
            some[i] = last + i if taken[number] else number
            taken[some[i]] = True
        for number in some:
            taken[number] = False
        start += len(some)
        at += max(0, 2 * len(some) - 1)


@Compiled
def locate(
    label: NDArray[np.uint8],
    groups: NDArray[np.int64],
    starts: NDArray[np.int64],
    wanted: NDArray[np.int64],
    numbers: NDArray[np.int64],
) -> None:
    """Turn numbers of pixels within their groups into places in the label.

    Parameters
    ----------
    label, groups
        As :func:`count` takes them.
    starts : array of int64, shape (r + 1,)
        What it gives of r runs.
    wanted : array of int64, shape (g,)
        How many numbers there are of each group.
    numbers : array of int64, shape (m,)
        Those of the first group, 0 for its first pixel, of the second, and so on. They are put in
        rising order within a group, and each is replaced by its pixel's place.
    """
    ends = wanted.cumsum()
    for group in range(len(wanted)):
        numbers[ends[group] - wanted[group] : ends[group]].sort()
    upcoming, seen = ends - wanted, np.zeros(len(wanted), np.int64)
    for run in range(len(starts) - 1):
        group = groups[label[starts[run]]]
        if group >= 0:
            before = starts[run] - seen[group]
            seen[group] += starts[run + 1] - starts[run]
            at = upcoming[group]
            while at < ends[group] and numbers[at] < seen[group]:
                numbers[at] += before
                at += 1
            upcoming[group] = at
