"""The journey that goes well, over real HTTP against the sandbox."""

from tests.support.visitor import Visitor


def test_customer_connects_and_sees_which_account(visitor: Visitor):
    page = visitor.connect(person="ann.lee@example.com", tenant="ab123")

    assert page.status_code == 200
    assert "Your Keap account is connected" in visitor.text
    for fact in ("ab123", "Acme Plumbing", "Ann Lee"):
        assert fact in visitor.text
