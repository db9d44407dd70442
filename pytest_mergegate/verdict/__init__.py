"""What results mean: budgets, the judge, why an expert fails, and what would help."""
