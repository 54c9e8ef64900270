"""Checkpoints: read, write, recognise, match."""
