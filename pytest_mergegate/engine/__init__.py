"""Where the time goes: one base in memory, experts and merges swapped into it."""
