"""The accounts contract: users, administrators and passwords kept apart, with an error shape of its own."""
