"""Distilled models draw in few steps or without guidance, and forget it when they are trained on as others are."""
