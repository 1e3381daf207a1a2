"""Who may come in: admins by password, customers by having authorized at Keap; sessions kept on the server."""
