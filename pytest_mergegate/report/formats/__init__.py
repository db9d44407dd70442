"""Reports for people and for tools: a module per format, with ``render(Collected) -> str``."""
