"""Training the dense head: its steps, its class weights, its checkpoints."""

from pipeline.training.balance import inverse_frequency
from pipeline.training.run import TrainingRun
from pipeline.training.team import Team, joined_team
from pipeline.training.trainer import DenseTrainer, TrainSettings

__all__ = [
    "DenseTrainer",
    "Team",
    "TrainSettings",
    "TrainingRun",
    "inverse_frequency",
    "joined_team",
]
