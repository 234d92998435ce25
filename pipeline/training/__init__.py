"""Training the dense head: its steps, its class weights, its checkpoints."""

from pipeline.training.balance import CLASS_WEIGHTS, inverse_frequency
from pipeline.training.run import TrainingRun
from pipeline.training.trainer import DenseTrainer, TrainSettings

__all__ = ["CLASS_WEIGHTS", "DenseTrainer", "TrainSettings", "TrainingRun", "inverse_frequency"]
