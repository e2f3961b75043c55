"""The contract of clients that name the owner in the path: /api/{user_id}/tasks."""
