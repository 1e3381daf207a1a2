"""The made-up people who can sign in, and the Keap apps (tenants) they can reach."""

from dataclasses import dataclass

from keap_connect.sandbox.store import Store


@dataclass(frozen=True)
class Person:
    """One login. `person_id` is Keap's global user id, the same in every tenant."""

    person_id: int
    given_name: str
    family_name: str
    is_admin: bool
    tenant_ids: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.given_name} {self.family_name}"

    @property
    def email(self) -> str:
        return f"{self.given_name}.{self.family_name}@example.com".lower()


PEOPLE = (
    Person(4236128, "Ann", "Lee", True, ("ab123", "cd456")),
    Person(4236129, "Ben", "Ortiz", False, ("ab123",)),
    Person(4236130, "Cleo", "Marsh", True, ("ef789",)),
    Person(4236131, "Dora", "Quist", True, ()),
    Person(4236132, "Eve", "Stone", True, ("gh012",)),
    Person(4236133, "Finn", "Hale", True, ("ij345",)),
)

TENANT_NAMES = {
    "ab123": "Acme Plumbing",
    "cd456": "Bright Dental",
    "ef789": "Cedar & Sons",
    "gh012": '"><img src=x onerror=alert(1)>',
    "ij345": "Finn's Old Name",
}


def find_person(person_id: object) -> Person | None:
    """Find a person by number; text from a form is fine too."""
    return next((person for person in PEOPLE if str(person.person_id) == str(person_id)), None)


def get_person(person_id: int) -> Person:
    """Get a person by number; a `LookupError` if there is none."""
    person = find_person(person_id)
    if person is None:
        raise LookupError(f"Nobody has the number {person_id}.")
    return person


def local_user_number(person: Person, tenant_id: str) -> str:
    """Keap's `sub`: the user's number inside one tenant, so "1" in nearly all of them."""
    people = [candidate for candidate in PEOPLE if tenant_id in candidate.tenant_ids]
    return str(people.index(person) + 1) if person in people else "1"


class Tenants:
    """The names of the Keap apps; a customer can change theirs at any time."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def name(self, tenant_id: str) -> str:
        renamed = self._store.row("SELECT name FROM tenant WHERE tenant_id = ?", tenant_id)
        return str(renamed["name"]) if renamed else TENANT_NAMES.get(tenant_id, f"Keap app {tenant_id}")

    def names(self, tenant_ids: tuple[str, ...] = tuple(TENANT_NAMES)) -> dict[str, str]:
        return {tenant_id: self.name(tenant_id) for tenant_id in tenant_ids}

    def rename(self, tenant_id: str, name: str) -> None:
        self._store.run("INSERT OR REPLACE INTO tenant VALUES (?, ?)", tenant_id, name)
