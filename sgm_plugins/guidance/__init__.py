"""Guidance beyond the classifier-free one, a file each."""
