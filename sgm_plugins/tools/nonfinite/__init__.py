"""Losses and gradients that are not finite: the guard that stops, and `sgm replay`."""
