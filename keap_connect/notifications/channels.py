"""The ways by which notifications are sent."""

from keap_connect.notifications import webhooks

CHANNELS = (webhooks.CHANNEL,)
