"""Looks at an installation from outside its work and says what is wrong with it, and what to do. It mends nothing."""
