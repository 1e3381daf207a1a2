"""The emergency stop: all keys, cookies and passwords stop working at once, since somebody may have stolen them."""

from sqlalchemy import delete, select, update

from keap_connect.accounts.directory import AccountView, view_of
from keap_connect.accounts.stored_state import registration
from keap_connect.clock import utc_now
from keap_connect.database import count_updated, take_turns, write_transaction
from keap_connect.events.history import EventKind, record
from keap_connect.jobs.records import stop_in
from keap_connect.models import (
    NOT_CHOSEN,
    Account,
    Admin,
    APIKey,
    Invitation,
    InvitationState,
    Job,
    OneTimeToken,
    ReconnectLink,
    SignIn,
)
from keap_connect.refresh import alarms

REASON = (
    "Everything was stopped by `./keap-connect emergency-stop`. First replace each secret that may be "
    "stolen, make links for new passwords (./keap-connect admins reset-password), and make new API keys."
)


def stop_everything(actor: str) -> list[AccountView]:
    """End all sign-ins, keys, links, passwords and jobs, pause refreshing, and return the accounts that have tokens.

    All of it is one transaction. The tokens stay: no customer is disconnected.
    """
    now = utc_now()
    with write_transaction() as session:
        take_turns(session, "admins")  # nothing that an admin does at this moment outlives it
        for table in (SignIn, OneTimeToken):
            session.execute(delete(table))
        keys = count_updated(session, update(APIKey).where(APIKey.revoked_at.is_(None)).values(revoked_at=now))
        open_links = update(ReconnectLink).where(ReconnectLink.used_at.is_(None), ReconnectLink.revoked_at.is_(None))
        session.execute(open_links.values(revoked_at=now))
        invitations = update(Invitation).where(Invitation.state.in_((InvitationState.SENT, InvitationState.OPENED)))
        session.execute(invitations.values(state=InvitationState.WITHDRAWN))
        alarms.raise_alarm(session, alarms.UNKNOWN_INSTANCE, REASON)  # is mailed to the admins who have a password
        for admin in session.scalars(select(Admin)):
            admin.password_hash = NOT_CHOSEN
        for job_id in session.scalars(select(Job.id).where(Job.finished_at.is_(None))).all():
            stop_in(session, job_id, actor)
        record(session, EventKind.EMERGENCY_STOPPED, None, actor, keys=keys)
        accounts = select(Account).where(Account.disconnected_at.is_(None)).order_by(Account.id)
        ours = registration(session)
        return [view_of(account, ours) for account in session.scalars(accounts)]
