"""Notifications: sends the deliveries that `events.history.record` wrote, by webhook or mail."""
