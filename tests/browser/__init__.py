"""The example app behind a real Better Auth, its Duly, and a real browser in front of both."""
