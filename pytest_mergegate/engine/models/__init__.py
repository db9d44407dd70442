"""Models: their families, how they are loaded, and how they answer."""
