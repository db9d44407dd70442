"""The report: its types, how it is put together, and one file per output format."""
