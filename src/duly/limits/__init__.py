"""How many requests a caller may make in a time."""
