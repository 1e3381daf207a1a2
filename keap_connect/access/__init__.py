"""Who may use the app: admins by password, customers by having authorized at Keap, programs by API key."""
