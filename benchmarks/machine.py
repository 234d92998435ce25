"""What the figures were measured on."""

import os
import platform
from pathlib import Path
from typing import Any

import torch

from pipeline.software import versions


def machine() -> dict[str, Any]:
    """Describe processor, threads and versions, for the record."""
    found: dict[str, Any] = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": load_average(),
        "platform": platform.platform(),
        "software": versions(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def processor() -> str:
    """Give the processor's name, as the system spells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def load_average() -> float | None:
    """Give the system's load over the last minute: above 0.5 at the start, figures are doubtful."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def in_a_line(found: dict[str, Any]) -> str:
    """Put a description into a line."""
    software = found["software"]
    gpu = f", {found['gpu']}" if "gpu" in found else ""
    return (
        f"{found['cores']} cores of {found['processor']}{gpu}, {found['threads']} threads, load "
        f"{found['load_average']} at the start; Python {software['python']}, torch "
        f"{software['torch']}, NumPy {software['numpy']}, h5py {software['h5py']}"
    )
