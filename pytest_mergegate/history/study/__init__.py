"""The paper's tables, on merges that were recorded: the beds that ship, or a team's own."""
