"""All faults the sandbox can play: `FAULTS` by name. Each file holds one family."""

from keap_connect.sandbox.fault_library import bodies, callbacks, network, statuses
from keap_connect.sandbox.fault_library.registry import FAULTS, Call, FaultKind

__all__ = ["FAULTS", "Call", "FaultKind", "bodies", "callbacks", "network", "statuses"]
