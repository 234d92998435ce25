"""Classifiers of whole images: what a head is, and its file."""

from pipeline.heads.head import Head, HeadInfo
from pipeline.heads.storage import FORMAT, load_head, save_head

__all__ = ["FORMAT", "Head", "HeadInfo", "load_head", "save_head"]
