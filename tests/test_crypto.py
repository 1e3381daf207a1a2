"""What is sealed opens at its own place with a key of the ring, and in no other way."""

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from keap_connect.accounts.credentials import open_access_token
from keap_connect.accounts.directory import get_account, view_account
from keap_connect.application import create_app
from keap_connect.crypto import TokenCipher
from keap_connect.database import db, write_transaction
from keap_connect.errors import SealBroken, SealingKeyUnknown
from keap_connect.models import Account
from keap_connect.refresh.serving import refresh_account, valid_token
from tests.accounts.granted import row_of, store_account

FIRST, SECOND, THIRD = bytes(range(32)), bytes(range(32, 64)), bytes(range(64, 96))
PLACE = "account:7:refresh_token"
SECRET = "the-refresh-token"


@pytest.fixture
def cipher():
    return TokenCipher((FIRST, SECOND))


@hypothesis_settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=9000))
def test_any_text_opens_as_it_was_sealed(text):
    cipher = TokenCipher((FIRST,))

    assert cipher.open(cipher.seal(text, PLACE), PLACE) == text


@pytest.mark.proves("R44")
def test_the_same_text_sealed_twice_differs_and_shows_nothing(cipher):
    sealed = [cipher.seal(SECRET, PLACE) for _ in range(100)]

    assert len({one[5:17] for one in sealed}) == 100
    assert len({one[17:] for one in sealed}) == 100
    assert not [one for one in sealed if SECRET.encode() in one]


@pytest.mark.proves("R45")
@pytest.mark.parametrize("place", ["account:8:refresh_token", "account:7:access_token", "account:7", "", PLACE + " "])
def test_a_moved_ciphertext_does_not_open(cipher, place):
    with pytest.raises(SealBroken):
        cipher.open(cipher.seal(SECRET, PLACE), place)


def test_what_another_version_sealed_waits_for_that_version(cipher):
    with pytest.raises(SealingKeyUnknown):
        cipher.open(b"\x02" + cipher.seal(SECRET, PLACE)[1:], PLACE)


@pytest.mark.proves("R45")
def test_an_edited_ciphertext_does_not_open_whichever_bit_was_flipped(cipher):
    sealed = cipher.seal(SECRET, PLACE)

    for bit in range(len(sealed) * 8):
        edited = bytearray(sealed)
        edited[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SealBroken):
            cipher.open(bytes(edited), PLACE)


def test_a_truncated_or_lengthened_ciphertext_does_not_open(cipher):
    sealed = cipher.seal(SECRET, PLACE)

    for length in range(len(sealed)):
        with pytest.raises(SealBroken):
            cipher.open(sealed[:length], PLACE)
    with pytest.raises(SealBroken):
        cipher.open(sealed + b"\x00", PLACE)


def test_the_first_key_seals_and_every_key_of_the_ring_opens():
    old, new = TokenCipher((FIRST,)), TokenCipher((SECOND, FIRST))

    assert new.open(old.seal(SECRET, PLACE), PLACE) == SECRET
    assert TokenCipher((SECOND,)).open(new.seal(SECRET, PLACE), PLACE) == SECRET
    with pytest.raises(SealBroken):
        old.open(new.seal(SECRET, PLACE), PLACE)


def test_a_key_that_is_not_in_the_ring_is_named_as_the_reason(cipher):
    with pytest.raises(SealBroken, match="not in TOKEN_KEYS"):
        cipher.open(TokenCipher((THIRD,)).seal(SECRET, PLACE), PLACE)


def test_no_reason_tells_the_secret_or_a_key(cipher):
    with pytest.raises(SealBroken) as refusal:
        cipher.open(cipher.seal(SECRET, PLACE), "elsewhere")

    assert SECRET not in str(refusal.value)
    assert SECRET not in repr(cipher)
    assert repr(FIRST) not in repr(vars(cipher))


@pytest.fixture
def app(settings):
    """Give the app without a port of its own."""
    built = create_app(settings)
    yield built
    with built.app_context():
        db.engine.dispose()


def swap_access_tokens(one, other):
    with write_transaction() as session:
        first, second = session.get_one(Account, one), session.get_one(Account, other)
        first.access_token_sealed, second.access_token_sealed = second.access_token_sealed, first.access_token_sealed


def flip_a_bit(column, account_id):
    with write_transaction() as session:
        account = session.get_one(Account, account_id)
        sealed = getattr(account, column)
        setattr(account, column, sealed[:-1] + bytes([sealed[-1] ^ 1]))


@pytest.mark.proves("R45", "F39")
def test_a_broken_row_is_reported_and_left_as_it_is_and_its_neighbors_work(app, sandbox):
    with app.app_context():
        one, other, good = (store_account(sandbox, tenant_id) for tenant_id in ("ab123", "cd456", "ef789"))
        flip_a_bit("refresh_token_sealed", one)
        swap_access_tokens(one, other)
        before = row_of(one), row_of(other)
        sandbox.clear_ledger()

        for broken in (one, other):
            assert view_account(broken, with_tokens=True).access_token_masked == "cannot be opened"
            with pytest.raises(SealBroken):
                valid_token(broken, "test")
        with pytest.raises(SealBroken):
            refresh_account(one, "test")

        assert (row_of(one), row_of(other)) == before
        assert sandbox.ledger()["totals"]["token_calls"] == 0
        refresh_account(good, "test")
        assert valid_token(good, "test").access_token == open_access_token(get_account(good))
