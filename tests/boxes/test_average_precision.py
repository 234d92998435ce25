"""Average precision against a direct, slow implementation, and the matching against pycocotools."""

import numpy as np
import pytest

from pipeline.boxes.average_precision import Ranking, average_precision, find
from pipeline.boxes.regions import Region, RegionScores, overlaps
from pipeline.data import Box, Instance, Instances

CLASSES = ("ground", "cat", "dog")


def slow_average_precision(scores, found, objects):
    """Recall by recall: the best precision of any cut of the ranking that reaches it."""
    ranked = [found[i] for i in sorted(range(len(scores)), key=lambda i: -scores[i])]
    cuts = [(sum(ranked[:n]) / objects, sum(ranked[:n]) / n) for n in range(1, len(ranked) + 1)]
    total = 0.0
    for hit in range(1, sum(ranked) + 1):
        total += max(precision for recall, precision in cuts if recall >= hit / objects)
    return total / objects


def test_average_precision_is_the_area_under_the_curve() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 10, 40):
        scores, found = rng.random(count), rng.random(count) < 0.5
        objects = int(found.sum()) + int(rng.integers(1, 4))
        expected = slow_average_precision(scores, found, objects)
        assert average_precision(scores, found, objects) == pytest.approx(expected)


def test_average_precision_by_hand() -> None:
    scores = np.array([0.9, 0.8, 0.7])
    assert average_precision(scores, np.array([True, True, True]), 3) == 1
    assert average_precision(scores, np.array([True, False, True]), 2) == pytest.approx(5 / 6)
    assert average_precision(scores, np.array([False, False, False]), 2) == 0
    assert average_precision(np.array([]), np.array([], bool), 4) == 0
    assert average_precision(scores, np.array([False] * 3), 0) is None


def test_an_object_is_found_once_by_the_best_ranked() -> None:
    fit = np.array([[0.6, 0.1], [0.9, 0.0], [0.4, 0.55], [0.5, 0.2]])
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    assert find(fit, scores, 0.5).tolist() == [True, False, True, False]
    assert find(fit, scores[::-1].copy(), 0.5).tolist() == [False, False, True, True]
    assert find(fit, scores, 0.61).tolist() == [False, True, False, False]
    assert find(np.zeros((2, 0)), scores[:2], 0.5).tolist() == [False, False]


def drawn(rng: np.random.Generator, objects: int) -> tuple[Instances, list[Region]]:
    """An image of boxes as objects, and candidates: theirs, moved, and some out of nowhere."""
    mask = np.zeros((40, 50), np.uint8)
    for number in range(1, objects + 1):
        top, left = rng.integers(0, 30), rng.integers(0, 40)
        mask[top : top + rng.integers(4, 14), left : left + rng.integers(4, 14)] = number
    mask[rng.random(mask.shape) < 0.03] = 255
    labels = rng.integers(1, 3, objects + 1)
    shown = [n for n in range(1, objects + 1) if (mask == n).any()]
    true = Instances(mask, tuple(Instance(n, int(labels[n]), Box(0, 0, 1, 1)) for n in shown))
    regions = []
    for thing in true.objects:
        for _ in range(rng.integers(0, 4)):
            shift = tuple(rng.integers(-1, 2, 2).tolist())
            moved = np.roll(mask == thing.number, shift, (0, 1))
            label = thing.label if rng.random() < 0.8 else 3 - thing.label
            regions.append(Region(label, moved, float(rng.random())))
    regions.append(Region(1, rng.random(mask.shape) < 0.5, float(rng.random())))
    regions.append(Region(2, np.zeros(mask.shape, bool), float(rng.random())))
    return true, regions


def slow_overlap(region: np.ndarray, mask: np.ndarray, number: int) -> float:
    both = either = 0
    for predicted, value in zip(region.ravel().tolist(), mask.ravel().tolist(), strict=True):
        if value != 255:
            both += predicted and value == number
            either += predicted or value == number
    return both / either


def test_overlaps_pixel_by_pixel() -> None:
    true, regions = drawn(np.random.default_rng(3), 4)
    numbers = [thing.number for thing in true.objects]
    found = overlaps(regions, true.mask, numbers, 255)
    for row, region in enumerate(regions):
        for column, number in enumerate(numbers):
            expected = slow_overlap(region.pixels, true.mask, number)
            assert found[row, column] == pytest.approx(expected)


def test_region_ap_from_its_definition() -> None:
    rng = np.random.default_rng(4)
    images = [drawn(rng, n) for n in (3, 0, 5, 2, 4, 6, 3)]
    measured = RegionScores(CLASSES, 255)
    for true, regions in images:
        own = [Region(t.label, true.mask == t.number, 1.0) for t in true.objects]
        measured.add(true, own, regions)
    summary = measured.summary()
    assert summary["mean_overlap"] == 1  # of what is the truth itself
    assert summary["objects"] == sum(len(true.objects) for true, _ in images)
    for least in (0.5, 0.7):
        for label, name in ((1, "cat"), (2, "dog")):
            # All candidates of the class in one ranking; each takes its best object, if still free.
            ranked = sorted(
                (
                    (r, i)
                    for i, (_, listed) in enumerate(images)
                    for r in listed
                    if r.label == label
                ),
                key=lambda pair: -pair[0].score,
            )
            taken, found = set(), []
            for region, i in ranked:
                things = [t for t in images[i][0].objects if t.label == label]
                fits = [slow_overlap(region.pixels, images[i][0].mask, t.number) for t in things]
                best = int(np.argmax(fits)) if fits else None
                right = best is not None and fits[best] >= least and (i, best) not in taken
                taken |= {(i, best)} if right else set()
                found.append(right)
            objects = sum(t.label == label for true, _ in images for t in true.objects)
            scores = [region.score for region, _ in ranked]
            expected = slow_average_precision(scores, found, objects)
            assert 0 < expected < 1
            assert summary["region_ap"][str(least)]["by_class"][name] == pytest.approx(expected)


def test_a_class_without_objects_does_not_count() -> None:
    mask = np.zeros((4, 4), np.uint8)
    mask[0] = 1
    measured = RegionScores(CLASSES, 255)
    region = Region(1, mask == 1, 0.5)
    wrong = Region(2, mask == 0, 0.9)
    measured.add(Instances(mask, (Instance(1, 1, Box(0, 0, 4, 1)),)), [region], [region, wrong])
    summary = measured.summary()
    assert summary["overlap"] == {"cat": 1.0, "dog": None}
    assert summary["region_ap"]["0.5"] == {"mean": 1.0, "by_class": {"cat": 1.0, "dog": None}}


def test_matching_is_pycocotools_own() -> None:
    mask_api = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(5)
    images = [drawn(rng, n) for n in (3, 0, 5, 2, 4, 6)]

    def encoded(pixels: np.ndarray, counted: np.ndarray) -> dict[str, object]:
        found = mask_api.encode(np.asfortranarray((pixels & counted).astype(np.uint8)))
        return {"size": found["size"], "counts": found["counts"].decode()}

    truth, candidates = [], []
    for image, (true, regions) in enumerate(images, start=1):
        counted = true.mask != 255  # COCO knows no void: it is cut out of both beforehand
        for thing in true.objects:
            pixels = encoded(true.mask == thing.number, counted)
            one = {"image_id": image, "category_id": thing.label, "segmentation": pixels}
            one |= {"id": len(truth) + 1, "iscrowd": 0, "bbox": [0, 0, 1, 1]}
            truth.append(one | {"area": int((true.mask == thing.number).sum())})
        for region in regions:
            one = {"image_id": image, "category_id": region.label, "score": region.score}
            candidates.append(one | {"segmentation": encoded(region.pixels, counted)})
    theirs = COCO()
    theirs.dataset = {
        "info": {},
        "images": [{"id": i, "height": 40, "width": 50} for i in range(1, len(images) + 1)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": truth,
    }
    theirs.createIndex()
    evaluation = COCOeval(theirs, theirs.loadRes(candidates), "segm")
    evaluation.params.iouThrs = np.array([0.5, 0.7])
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e9]], ["all"]
    evaluation.evaluate()

    measured = RegionScores(CLASSES, 255)
    for true, regions in images:
        own = [Region(t.label, true.mask == t.number, 1.0) for t in true.objects]
        measured.add(true, own, regions)
    summary = measured.summary()
    found_by_theirs = 0
    for label, name in ((1, "cat"), (2, "dog")):
        of_class = [e for e in evaluation.evalImgs if e is not None and e["category_id"] == label]
        for row, least in enumerate((0.5, 0.7)):
            scores = np.concatenate([e["dtScores"] for e in of_class])
            found = np.concatenate([e["dtMatches"][row] > 0 for e in of_class])
            objects = sum(len(e["gtIds"]) for e in of_class)
            found_by_theirs += int(found.sum())
            assert summary["region_ap"][str(least)]["by_class"][name] == pytest.approx(
                average_precision(scores, found, objects)
            )
    assert found_by_theirs > 10


def test_ranking_is_over_all_images() -> None:
    ranking = Ranking()
    ranking.add(np.array([[0.9], [0.8]]), np.array([0.2, 0.1]), 0.5)
    ranking.add(np.zeros((1, 0)), np.array([0.5]), 0.5)  # a false one that ranks first
    ranking.add(np.zeros((0, 1)), np.array([]), 0.5)  # a missed one
    assert ranking.average_precision() == pytest.approx(0.5 / 2)
