"""The connected accounts: how they are found, and their credentials, states, names and refresh times."""
