"""An engine from a config or from a checkpoint."""
