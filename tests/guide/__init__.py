"""What runs the snippets of docs/integration.md."""
