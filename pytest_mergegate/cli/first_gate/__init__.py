"""A first gate file for a folder of experts: what is there, what it suggests, and how to say it."""
