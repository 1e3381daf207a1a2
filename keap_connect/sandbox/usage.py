"""Keap's `x-keap-*` headers: which tenant, and how much of each limit is used.

The limits are only shown, never enforced; throttling is played by faults.
"""

import threading
from collections import Counter

from keap_connect.sandbox.grants import Token
from keap_connect.sandbox.keys import Key
from keap_connect.sandbox.world import World

MINUTE, DAY = 60, 86400
# (limit, seconds) of the developer app over all tenants, of one key, and of one tenant over all credentials.
PRODUCT_THROTTLE, PRODUCT_QUOTA = (1500, MINUTE), (150_000, DAY)
KEY_THROTTLE, KEY_QUOTA = (240, MINUTE), (30_000, DAY)
TENANT_MINUTE, TENANT_DAY = (10_000, MINUTE), (250_000, DAY)
UNITS = {MINUTE: "minute", DAY: "day"}
FIELDS = ("limit", "time-unit", "interval", "available", "used")

_lock = threading.Lock()
_used: Counter[tuple[str, int, int]] = Counter()


def usage_headers(world: World, token: Token | Key | None) -> dict[str, str]:
    """All headers of one answer; blank when nobody is known."""
    if token is None:
        families = ("product-throttle", "product-quota", "tenant-throttle")
        names = [f"x-keap-{family}-{field}" for family in families for field in FIELDS]
        names += ["x-keap-tenant-id", "x-keap-product-spike-limit", "x-keap-product-quota-expiry-time"]
        return dict.fromkeys(names, "")
    now = world.clock.now()
    is_key = isinstance(token, Key)
    headers = {
        "x-keap-tenant-id": f"{token.tenant_id}.infusionsoft.com",
        "x-keap-product-spike-limit": "10ps" if is_key else "25ps",
        "x-keap-product-quota-expiry-time": str((int(now // DAY) + 1) * DAY * 1000),
    }
    throttle = count(token.client_id, KEY_THROTTLE if is_key else PRODUCT_THROTTLE, now)
    quota = count(token.client_id, KEY_QUOTA if is_key else PRODUCT_QUOTA, now)
    # On the wire the tenant's two limits stand side by side, with a bar between them.
    minute, day = count(token.tenant_id, TENANT_MINUTE, now), count(token.tenant_id, TENANT_DAY, now)
    both = tuple(f"{one}|{other}" for one, other in zip(minute, day, strict=True))
    for family, values in (("product-throttle", throttle), ("product-quota", quota), ("tenant-throttle", both)):
        headers |= {f"x-keap-{family}-{field}": value for field, value in zip(FIELDS, values, strict=True)}
    return headers


def count(whose: str, limit: tuple[int, int], now: float) -> tuple[str, ...]:
    """Count one call; returns limit, time unit, interval, available and used, as text."""
    allowed, seconds = limit
    with _lock:
        window = (whose, seconds, int(now // seconds))
        _used[window] += 1
        used = _used[window]
        if len(_used) > 10_000:
            _used.clear()
    return (str(allowed), UNITS[seconds], "1", str(max(0, allowed - used)), str(used))
