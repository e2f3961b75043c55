"""Which contract's shape an error has: that of the address at which it happened, whoever raised it."""

from duly.contracts.accounts.errors import render_accounts_error
from duly.contracts.owner.errors import render_owner_error
from duly.contracts.owner.ownership import is_owner_path
from duly.contracts.v1.problems import Rendered, render_problem
from duly.errors import DulyError

_ACCOUNTS = ("/api/users", "/api/admins", "/api/password")


def render_error(error: DulyError, request_id: str, path: str) -> Rendered:
    """Status, headers and body; outside every contract errors are problem details too."""
    if path.startswith(_ACCOUNTS) and any(path == place or path.startswith(f"{place}/") for place in _ACCOUNTS):
        return render_accounts_error(error, request_id, path)
    if is_owner_path(path):
        return render_owner_error(error, request_id)
    return render_problem(error, request_id, path)
