"""Heat maps in boxes: figure-ground and keypoints (Hariharan et al., CVPR 2015, section 3)."""

from pipeline.boxes.head import (
    BoxHead,
    BoxHeadInfo,
    BoxTarget,
    Task,
    hottest,
    load_box_head,
    save_box_head,
)
from pipeline.boxes.heat_maps import splat
from pipeline.boxes.keypoints import KeypointScores, Place, Pose
from pipeline.boxes.regions import Region, RegionScores
from pipeline.boxes.trainer import BoxSettings, BoxTrainer, Scaler, TrainingBox, TrainingImage

__all__ = [
    "BoxHead",
    "BoxHeadInfo",
    "BoxSettings",
    "BoxTarget",
    "BoxTrainer",
    "KeypointScores",
    "Place",
    "Pose",
    "Region",
    "RegionScores",
    "Scaler",
    "Task",
    "TrainingBox",
    "TrainingImage",
    "hottest",
    "load_box_head",
    "save_box_head",
    "splat",
]
