"""Data sets: reading, checking, drawing and downloading them."""

from pipeline.data.annotations import AnnotatedObject, Box, Keypoint
from pipeline.data.check import Problem, check_dataset
from pipeline.data.detections import Detection, read_detections
from pipeline.data.files import require_file
from pipeline.data.images import image_size, list_images, read_image
from pipeline.data.instances import Instance, Instances
from pipeline.data.palette import (
    VOC_PALETTE,
    read_mask,
    read_note,
    write_mask,
    write_overlay,
)
from pipeline.data.scenes import SCENE_CLASSES, write_scenes
from pipeline.data.voc import VOC_CLASSES, VocDataset
from pipeline.data.voc2012 import download_voc2012

__all__ = [
    "SCENE_CLASSES",
    "VOC_CLASSES",
    "VOC_PALETTE",
    "AnnotatedObject",
    "Box",
    "Detection",
    "Instance",
    "Instances",
    "Keypoint",
    "Problem",
    "VocDataset",
    "check_dataset",
    "download_voc2012",
    "image_size",
    "list_images",
    "read_detections",
    "read_image",
    "read_mask",
    "read_note",
    "require_file",
    "write_mask",
    "write_overlay",
    "write_scenes",
]
