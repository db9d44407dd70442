"""Which merges of a pool would pass: groups, what to leave out, what to put in its place."""
