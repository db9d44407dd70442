"""What the HTML report is made of: what is said, its plots, and the templates."""
