"""A real better-auth server, and an issuer of the tests' own, to take tokens from."""
