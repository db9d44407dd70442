"""mergekit's configurations, read as gates."""
