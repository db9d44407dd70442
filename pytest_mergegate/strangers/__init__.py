"""What strangers may have written: opened, followed and found within limits."""
