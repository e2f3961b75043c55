"""What the drivers raise, as the few things that a feature or the edge can act on."""

from duly.errors import DulyError, Kind, Unavailable


class UniqueViolation(Exception):
    """A unique constraint or index refused a row; `constraint` is its name in the schema."""

    def __init__(self, constraint: str) -> None:
        super().__init__(constraint)
        self.constraint = constraint


class ForeignKeyViolation(Exception):
    """The row that this one belongs to is gone."""


class TransactionAborted(DulyError):
    """The database chose this transaction as the victim of a deadlock or a serialization failure.

    Nothing of it is left, so the edge runs the whole request again, and answers 503 when that keeps happening.
    """

    kind = Kind.UNAVAILABLE
    default_code = "UNAVAILABLE"

    def __init__(self) -> None:
        super().__init__("The database is busy with conflicting changes. Try again.", retry_after=1)


def database_down(retry_after: int = 5) -> Unavailable:
    """The answer while the database does not answer; details are for the log, not for the client."""
    return Unavailable(
        "The database does not answer right now. Nothing was lost; try again.",
        code="DATABASE_UNAVAILABLE",
        retry_after=retry_after,
    )
