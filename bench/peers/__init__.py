"""The programs that Duly is measured against."""
