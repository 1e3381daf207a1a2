"""The checks before this process serves requests or refreshes tokens."""

import logging
from collections.abc import Iterable

from flask import current_app

from keap_connect.access.admins import create_admin
from keap_connect.deployment import check_deployment, check_file
from keap_connect.errors import FormRefused, SettingsError
from keap_connect.health.examination import check_names
from keap_connect.health.files import check_file_systems
from keap_connect.health.finding import Finding
from keap_connect.health.network import check_proxies
from keap_connect.refresh.clone_guard import check_instance
from keap_connect.settings import Settings

log = logging.getLogger(__name__)
MOST_READ_BYTES = 50_000_000  # at each start; `doctor` reads a database file of any size


def check_installation() -> list[str]:
    """Check the database, the names of settings and the file systems, and return warnings for the operator.

    Raises SettingsError: this process must not serve or refresh with them.
    """
    check_file(MOST_READ_BYTES)
    return [*check_deployment(), *_list_advice((*check_names(), *check_file_systems()))]


def prepare_to_serve(settings: Settings) -> None:
    """Check the installation, log warnings for the operator, and create the first admin if the settings name one.

    Raises SettingsError: this process must not serve with these settings or this database.
    """
    if current_app.debug and not settings.is_loopback:
        raise SettingsError("FLASK_DEBUG (or --debug) shows the source to everybody: it is for localhost only.")
    for warning in (*check_installation(), *_list_advice(check_proxies())):
        log.warning(warning)
    check_instance()
    if settings.admin_email and settings.admin_password:
        try:
            create_admin(settings.admin_email, settings.admin_password, only_first=True)
        except FormRefused as refusal:
            raise SettingsError(f"ADMIN_EMAIL and ADMIN_PASSWORD make no admin. {refusal}") from None


def _list_advice(findings: Iterable[Finding]) -> list[str]:
    return [f"{finding.sentence} {finding.advice}" for finding in findings if finding.advice]
