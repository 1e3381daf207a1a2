"""Pages for people. A view reads the request, calls one function, and chooses the answer; it has no queries."""
