"""Tensors and picture files, and labels on pictures."""
