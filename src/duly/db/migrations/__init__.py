"""The one chain of schema changes for both dialects, packaged with the code."""
