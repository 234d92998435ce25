"""Figures and the report page, from plain numbers and arrays; knows no cache and no network."""

from pipeline.reporting.comparison import plot_comparison
from pipeline.reporting.figures import plot_class_iou, plot_confusion, plot_history
from pipeline.reporting.page import HeadReport, Picture, ReportContent, write_page

__all__ = [
    "HeadReport",
    "Picture",
    "ReportContent",
    "plot_class_iou",
    "plot_comparison",
    "plot_confusion",
    "plot_history",
    "write_page",
]
