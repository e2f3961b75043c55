"""The database on both dialects: statements compiled once, the transaction, and where the two differ."""
