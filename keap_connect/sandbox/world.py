"""Everything the sandbox remembers, in one place that the views can reach."""

from pathlib import Path
from typing import cast

from flask import current_app

from keap_connect.sandbox.apps import Apps, RedirectURIMode
from keap_connect.sandbox.clock import Clock
from keap_connect.sandbox.faults import Faults
from keap_connect.sandbox.grants import Grants
from keap_connect.sandbox.holds import Holds
from keap_connect.sandbox.keys import Keys
from keap_connect.sandbox.ledger import Ledger
from keap_connect.sandbox.people import Tenants
from keap_connect.sandbox.store import Store
from keap_connect.sandbox.switches import SwitchBoard


class World:
    def __init__(self, store_path: Path, redirect_uri_mode: RedirectURIMode) -> None:
        self.store = Store(store_path)
        self.clock = Clock(self.store)
        self.switches = SwitchBoard(self.store, redirect_uri_mode)
        self.apps = Apps(self.store)
        self.tenants = Tenants(self.store)
        self.grants = Grants(self.store, self.clock, self.switches)
        self.keys = Keys(self.store, self.clock, self.switches)
        self.ledger = Ledger(self.store, self.clock)
        self.faults = Faults(self.store)
        self.holds = Holds()

    def reset(self) -> None:
        """Be as new: no grants, tokens, keys, ledger, faults, added apps, renamed tenants or sign-ins."""
        self.ledger.clear()
        self.store.forget_everything()
        self.clock.reload()
        self.switches.reload()
        self.faults.reload()
        # Last, so that held calls find nothing left of what they came for.
        self.holds.release()


def current_world() -> World:
    return cast(World, current_app.extensions["sandbox_world"])
