"""Models that are put together from their parts: a folder of diffusers, or a file and what it lacks."""
