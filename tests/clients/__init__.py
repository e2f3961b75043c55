"""What the tests of clients share: the tools from npm, a wire that loses answers, and the scripts of calls."""
