"""What a score has meant so far: losses predicted from recorded merges, and thresholds."""
