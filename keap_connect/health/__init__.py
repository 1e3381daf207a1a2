"""One list of checks: what is wrong with an installation, and what to do. No check changes anything."""
