"""What past merges cost: measured losses, kept beside the scores that should predict them."""
