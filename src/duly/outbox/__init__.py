"""Messages that a transaction promised, delivered after its commit and at least once."""
