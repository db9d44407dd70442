"""What is asked: the vocabulary of a gate, gate files, mergekit configurations, options."""
