"""Merges of trained experts that came with the package."""
