"""Answers that are dear to compute, kept as long as they are true."""
