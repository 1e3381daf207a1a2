"""Which faults are set, and whose turn it is. `fault_library` has what each fault does."""

import json
import threading
from dataclasses import dataclass

from keap_connect.sandbox.endpoints import ENDPOINTS, matches
from keap_connect.sandbox.fault_library import FAULTS
from keap_connect.sandbox.store import Store

SCHEDULES = ("calls", "first", "every")


@dataclass
class ActiveFault:
    """A fault that waits for calls to `endpoint`; calls are counted from the moment it was set."""

    fault_id: int
    endpoint: str
    name: str
    schedule: dict[str, object]
    parameters: dict[str, object]
    calls_seen: int = 0

    def is_due(self) -> bool:
        """Whether the latest call is one of those the fault was set for; without a schedule all are."""
        if isinstance(calls := self.schedule.get("calls"), list):
            return self.calls_seen in calls
        if isinstance(first := self.schedule.get("first"), int):
            return self.calls_seen <= first
        if isinstance(every := self.schedule.get("every"), int):
            return self.calls_seen % every == 0
        return True

    def description(self) -> dict[str, object]:
        return {
            "id": self.fault_id,
            "endpoint": self.endpoint,
            "fault": self.name,
            **self.schedule,
            **self.parameters,
            "calls_seen": self.calls_seen,
        }


class Faults:
    """Keeps the set faults in the store, so that they outlive a restart."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._active: list[ActiveFault] = []
        self.reload()

    def reload(self) -> None:
        with self._lock:
            self._active = [
                ActiveFault(
                    row["id"],
                    row["endpoint"],
                    row["name"],
                    json.loads(row["schedule"]),
                    json.loads(row["parameters"]),
                    row["calls_seen"],
                )
                for row in self._store.rows("SELECT * FROM fault ORDER BY id")
            ]

    def active(self) -> list[ActiveFault]:
        with self._lock:
            return list(self._active)

    def set(self, endpoint: str, name: str, options: dict[str, object]) -> int:
        """Set a fault; `options` holds its schedule and its parameters. Returns its number.

        Raises:
            ValueError: no such endpoint, fault or parameter, or they do not fit, said in one sentence.
        """
        schedule = {key: value for key, value in options.items() if key in SCHEDULES}
        parameters = {key: value for key, value in options.items() if key not in SCHEDULES}
        check(endpoint, name, schedule, parameters)
        fault_id = self._store.insert(
            "INSERT INTO fault (endpoint, name, schedule, parameters, calls_seen) VALUES (?, ?, ?, ?, 0)",
            endpoint, name, json.dumps(schedule), json.dumps(parameters),
        )  # fmt: skip
        with self._lock:
            self._active.append(ActiveFault(fault_id, endpoint, name, schedule, parameters))
        return fault_id

    def remove(self, fault_id: int) -> bool:
        self._store.run("DELETE FROM fault WHERE id = ?", fault_id)
        with self._lock:
            known = len(self._active)
            self._active = [fault for fault in self._active if fault.fault_id != fault_id]
            return len(self._active) < known

    def clear(self) -> None:
        self._store.run("DELETE FROM fault")
        self.reload()

    def due(self, endpoint: str) -> list[ActiveFault]:
        """Count one call for every fault that waits for it; returns those whose turn it is, oldest first."""
        with self._lock:
            matching = [fault for fault in self._active if matches(fault.endpoint, endpoint)]
            for fault in matching:
                fault.calls_seen += 1
                self._store.run("UPDATE fault SET calls_seen = ? WHERE id = ?", fault.calls_seen, fault.fault_id)
            return [fault for fault in matching if fault.is_due()]


def check(endpoint: str, name: str, schedule: dict[str, object], parameters: dict[str, object]) -> None:
    """Refuse a fault that could not be played as written, with a `ValueError`."""
    if endpoint not in ENDPOINTS:
        raise ValueError(f"There is no endpoint {endpoint!r}; choose one of {', '.join(ENDPOINTS)}.")
    if name not in FAULTS:
        raise ValueError(f"There is no fault {name!r}.")
    if endpoint not in FAULTS[name].endpoints:
        raise ValueError(f"{name} is for {', '.join(FAULTS[name].endpoints)}, not for {endpoint}.")
    FAULTS[name].check(parameters)
    if len(schedule) > 1:
        raise ValueError("Choose one of calls, first and every.")
    numbers = [one for value in schedule.values() for one in (value if isinstance(value, list) else [value])]
    if not all(isinstance(one, int) and not isinstance(one, bool) and one > 0 for one in numbers):
        raise ValueError("calls, first and every count calls from 1.")
