"""The journey: from "Connect Keap" to a stored, working account, and back again by reconnect."""
