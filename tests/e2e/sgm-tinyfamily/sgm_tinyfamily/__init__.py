"""A model family of a third party."""
