"""Makes the certificate of `make run HTTPS=1`: Keap wants an HTTPS redirect URI, even on a developer's machine."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

CERTIFICATE_DAYS = 820  # some systems refuse a certificate that is valid for more than 825 days


def make_certificate(folder: Path) -> Path:
    """Return the file of a certificate for localhost, which is renewed before it expires; the key has the suffix .key.

    The key of its authority is never stored, so whoever trusts `ca.pem` trusts only this certificate.
    """
    certificate = folder / "localhost.pem"
    renew_after_seconds = (CERTIFICATE_DAYS - 30) * 24 * 60 * 60
    if certificate.exists() and time.time() - certificate.stat().st_mtime < renew_after_seconds:
        return certificate
    folder.mkdir(mode=0o700, exist_ok=True)
    now = datetime.now(UTC)
    authority = trustme.CA(organization_name="Keap Connect on this machine")
    leaf = authority.issue_cert(
        "localhost", "127.0.0.1", "::1", not_before=now, not_after=now + timedelta(days=CERTIFICATE_DAYS)
    )
    authority.cert_pem.write_to_path(folder / "ca.pem")
    leaf.private_key_pem.write_to_path(certificate.with_suffix(".key"))
    certificate.write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
    return certificate
