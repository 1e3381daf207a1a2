"""The ways by which notifications are sent."""

from keap_connect.notifications import mail, webhooks

CHANNELS = (webhooks.CHANNEL, *mail.CHANNELS)
