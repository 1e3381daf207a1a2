"""The connected accounts: their credential, their state, their history, and finding them again."""
