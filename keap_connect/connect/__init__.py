"""From "Connect Keap" to a stored, working account, again by reconnect, or by import."""
