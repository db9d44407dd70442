"""A committed report to compare with: reading it, finding a gate in it, and writing it anew."""
