"""mergekit's own arithmetic, in memory, one parameter at a time."""
