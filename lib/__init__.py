"""Helpers that the notebooks call: one module a noun, and importing any of them does nothing."""
