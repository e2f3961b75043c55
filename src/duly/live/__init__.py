"""The change feed as it grows, told to those who follow it, in every process."""
