"""What is merged: references, experts, examples and their fingerprints."""
