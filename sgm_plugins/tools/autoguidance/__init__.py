"""Guidance by a worse model of the same thing."""
