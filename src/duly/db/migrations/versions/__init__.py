"""Revisions, in the order of their numbers. None imports a model: a revision says what was true when it was written."""
