"""What the notebooks call. Importing any of it has no side effects."""
