"""Tests: behaviours of the product, shown across its real edges."""
