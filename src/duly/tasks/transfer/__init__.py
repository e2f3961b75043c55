"""Tasks as files: written as JSON, CSV and iCalendar, and read from them and from what other programs export."""
