"""Tasks, their lists, and the change feed."""
