"""Scores of outputs against targets, and the ways in which outputs can be degenerate."""
