"""What is installed, without importing it: `sgm list`, `show`, `schema`, `check`."""
