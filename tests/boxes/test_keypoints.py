"""PCK and APK against their definitions."""

import numpy as np
import pytest

from pipeline.boxes.keypoints import KeypointScores, Place, Pose
from pipeline.data import AnnotatedObject, Box, Keypoint

CLASSES = ("ground", "cat", "dog")
EAR = "ear"


def cat(x: float, y: float, side: float = 20, *, visible: bool = True) -> AnnotatedObject:
    box = Box(x - side / 4, y - side / 2, x + side / 4, y + side / 2)
    return AnnotatedObject("cat", box, {EAR: Keypoint(x, y, visible)})


def pose(x: float, y: float, score: float = 1.0) -> Pose:
    return Pose(1, {EAR: Place(x, y, score)})


def test_pck_is_the_share_within_alpha_of_the_longer_side() -> None:
    scores = KeypointScores(CLASSES, 0.1)
    objects = [cat(50, 50), cat(90, 90), cat(20, 20), cat(70, 10, visible=False)]
    given = [pose(52, 50), pose(90, 92.01), Pose(1, {}), pose(0, 0)]
    scores.add(objects, given, [])
    summary = scores.summary()
    assert summary["pck"] == {"cat": {EAR: pytest.approx(1 / 3)}}
    assert (summary["keypoints"], summary["mean_pck"]) == (3, pytest.approx(1 / 3))
    assert summary["apk"] == {"cat": {EAR: 0.0}}  # no candidate at all


def test_apk_counts_candidates_that_belong_to_nothing() -> None:
    scores = KeypointScores(CLASSES, 0.1)
    objects = [cat(50, 50), cat(90, 90), cat(10, 10, visible=False)]
    right, second, wrong = pose(51, 50, 0.9), pose(50, 51, 0.8), pose(10, 10, 0.7)
    late = pose(91, 91, 0.6)
    scores.add(objects, [pose(0, 0)] * 3, [late, wrong, right, second])
    scores.add([], [], [pose(5, 5, 0.85)])  # in an image without cats
    # By rank: right, nothing there, found already, hidden, right.
    assert scores.summary()["apk"]["cat"][EAR] == pytest.approx((1 / 1 + 2 / 5) / 2)
    assert scores.summary()["mean_pck"] == 0


def test_a_keypoint_that_nothing_shows_does_not_count() -> None:
    scores = KeypointScores(CLASSES, 0.1)
    scores.add([cat(50, 50)], [pose(50, 50)], [pose(50, 50), Pose(2, {"tail": Place(1, 1, 1.0)})])
    summary = scores.summary()
    assert summary["apk"] == {"cat": {EAR: 1.0}, "dog": {"tail": None}}
    assert (summary["mean_apk"], summary["mean_pck"]) == (1.0, 1.0)


def test_apk_from_its_definition() -> None:
    rng = np.random.default_rng(0)
    alpha, images = 0.2, []
    scores = KeypointScores(CLASSES, alpha)
    for _ in range(6):
        objects = [
            cat(
                *rng.uniform(0, 60, 2), float(rng.uniform(10, 30)), visible=bool(rng.random() < 0.8)
            )
            for _ in range(rng.integers(0, 5))
        ]
        places = [thing.keypoints[EAR] for thing in objects]
        candidates = [
            pose(*(np.array([p.x, p.y]) + rng.normal(0, 3, 2)), float(rng.random()))
            for p in places
            for _ in range(2)
        ]
        scores.add(objects, [pose(0, 0)] * len(objects), candidates)
        images.append((objects, candidates))
    ranked = sorted(
        ((c.places[EAR], i) for i, (_, listed) in enumerate(images) for c in listed),
        key=lambda pair: -pair[0].score,
    )
    shown = [[o for o in objects if o.keypoints[EAR].visible] for objects, _ in images]
    taken, precisions, hits = set(), [], 0
    for rank, (place, i) in enumerate(ranked, start=1):
        off = [
            np.hypot(place.x - o.keypoints[EAR].x, place.y - o.keypoints[EAR].y)
            / max(o.box.width, o.box.height)
            for o in shown[i]
        ]
        best = int(np.argmin(off)) if off else None
        right = best is not None and off[best] <= alpha and (i, best) not in taken
        if right:
            taken.add((i, best))
            hits += 1
        precisions.append((right, hits / rank))
    expected = sum(
        max(later for _, later in precisions[rank:])
        for rank, (right, _) in enumerate(precisions)
        if right
    ) / sum(map(len, shown))
    assert 0.2 < expected < 1
    assert scores.summary()["apk"]["cat"][EAR] == pytest.approx(expected)
