"""A training run: its folder, trainer, checkpoints, signals and metrics."""
