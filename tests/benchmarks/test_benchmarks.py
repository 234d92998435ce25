"""Every benchmark in its smallest setting, so that none of them rots; its figures mean nothing."""

import json
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import extract, gpu, many, memory, predict, reading, repro, stage_process, step
from benchmarks.__main__ import NAMES
from benchmarks.opponents import OriginalExtraction, OriginalTraining
from benchmarks.results import Result, Row, at_least, at_most
from benchmarks.settings import ROOT, Settings
from benchmarks.stage_process import Measured, Task
from benchmarks.subjects import identity_for, random_head
from benchmarks.summary import write_summary
from benchmarks.timing import Spread, in_turns, ratio
from pipeline import Drawing, Features, Preprocessing, SampleDrawer, TrainSettings
from pipeline.training import DenseTrainer
