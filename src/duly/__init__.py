"""Duly: the task backend that a developer puts behind any frontend."""

__version__ = "0.5.0"
