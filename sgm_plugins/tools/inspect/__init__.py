"""`sgm inspect`: what a checkpoint is."""
