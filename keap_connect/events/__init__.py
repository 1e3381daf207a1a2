"""What happened, and who got which access token."""
