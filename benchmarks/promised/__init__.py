"""What a gate promises, held against how often it breaks it: see `promises.py`."""
