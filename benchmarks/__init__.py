"""How fast the pipeline is, side by side with the alternatives: ``python -m benchmarks``."""
