"""Machine unlearning with AMUN and its baselines, as a distributed sweep on Ray, with evidence in MLflow."""

__version__ = "0.1.0"
