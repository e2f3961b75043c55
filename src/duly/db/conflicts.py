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


class Tally:
    """A count that only rises."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


unavailable = Tally()
"""How often the database did not serve this process, which has one."""


class WritesRefused(Unavailable):
    """The database takes no writes for now: its disk is full or failing, or it is in its read-only mode.

    Reads may go on, so whoever wrote only in order to read better can do without.
    """


def writes_refused(retry_after: int = 5) -> WritesRefused:
    """The answer to a write meanwhile; details are for the log, not for the client."""
    unavailable.count += 1
    return WritesRefused(
        "The database takes no writes right now. Nothing was changed; try again.",
        code="DATABASE_UNAVAILABLE",
        retry_after=retry_after,
    )


def database_down(retry_after: int = 5) -> Unavailable:
    """The answer while the database does not answer; details are for the log, not for the client."""
    unavailable.count += 1
    return Unavailable(
        "The database does not answer right now. Nothing was lost; try again.",
        code="DATABASE_UNAVAILABLE",
        retry_after=retry_after,
    )
