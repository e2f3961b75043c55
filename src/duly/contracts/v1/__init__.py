"""The contract for every new client: RFC 9457 errors, merge updates, keyset lists."""
