"""`sgm data check`: reads a dataset through."""
