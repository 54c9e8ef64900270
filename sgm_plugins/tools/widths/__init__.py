"""Widths of a model's parts, compared before anything is built."""
