"""What a score has meant so far: losses foretold from recorded merges, and thresholds."""
