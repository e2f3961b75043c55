"""Users, their sessions and tokens, and the outside issuers that Duly trusts."""
