"""Weights: task vectors, how they conflict, and how they are mixed."""
