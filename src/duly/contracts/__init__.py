"""One package for each HTTP convention: routes, wire models, and the error renderer."""
