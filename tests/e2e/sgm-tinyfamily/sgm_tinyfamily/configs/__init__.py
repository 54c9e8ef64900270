"""The config of the family."""
