"""`sgm new`: writes a plugin package."""
