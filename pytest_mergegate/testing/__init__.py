"""The side of pytest: session, items, fixtures, markers, workers."""
