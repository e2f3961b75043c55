"""The SQL that keeps the words of tasks in step with the change feed."""

from sqlalchemy import BigInteger, Text, and_, bindparam, cast, func, literal_column, select, update
from sqlalchemy import column as sql_column

from duly.db.functions import insert_on_conflict
from duly.db.search import TEXTS, json_rows
from duly.db.statements import Statement
from duly.tasks.list_queries import KEPT_KEYS, indexed_words, user, words
from duly.tasks.queries import changes, counters, tasks
from duly.tasks.search_tables import SearchPlace

places = SearchPlace.__table__  # type: ignore[attr-defined]

KEPT_ORDERS = [key.name for key in KEPT_KEYS.values()]

_indexed = select(places.c.position).where(places.c.user_id == counters.c.user_id).correlate(counters).scalar_subquery()
_from, _to = bindparam("behind", type_=BigInteger()), bindparam("position", type_=BigInteger())

FIND_STATE = Statement(
    select(counters.c.pending, counters.c.completed, counters.c.position, func.coalesce(_indexed, 0)).where(
        counters.c.user_id == user
    )
)
"""How many tasks are open and done, where the feed is, and where the words are."""

FIND_UNKEYED = Statement(
    select(words.c.task_id).where(words.c.user_id == user, words.c.title_key.is_(None)).limit(literal_column("1"))
)
"""A task of the user's whose words a server of before revision 0005 wrote: it has no place in the kept orders."""

FIND_BEHIND = Statement(
    select(counters.c.user_id)
    .where(counters.c.position - func.coalesce(_indexed, 0) > bindparam("distance", type_=BigInteger()))
    .order_by(counters.c.user_id)
    .limit(bindparam("limit")),
    slow=True,
)
"""For the upkeep alone: accounts of anybody whose words are this far behind."""

FIND_CHANGED = Statement(
    select(changes.c.position, changes.c.type, changes.c.task_id, changes.c.task)
    .where(changes.c.user_id == user, changes.c.position > _from)
    .order_by(changes.c.position)
    .limit(bindparam("limit"))
)

FIND_INDEXED = Statement(select(words.c.task_id).where(*indexed_words(literals=False)), slow=True)
FIND_INDEXED_LITERALLY = Statement(select(words.c.task_id).where(*indexed_words(literals=True)), slow=True)
"""The tasks that have the words, as far as they are indexed."""

# Whoever moves the place from where it was has the changes between for himself; everybody else finds it moved.
START_PLACE = Statement(
    insert_on_conflict(places)
    .values(user_id=user, position=_to)
    .on_conflict_do_update(index_elements=["user_id"], set_={"position": _to}, where=places.c.position == 0)
    .returning(places.c.position)
)
MOVE_PLACE = Statement(
    update(places)
    .where(places.c.user_id == user, places.c.position == _from)
    .values(position=_to)
    .returning(places.c.position)
)

_rows = json_rows(bindparam("rows", type_=TEXTS)).table_valued(sql_column("value", Text), name="row")
_part = [_rows.c.value.op("->>", return_type=Text())(literal_column(str(number))) for number in range(3)]
# Apart, so that the rows lead to the tasks: else SQLite would look at all tasks of the user, and for each at all rows.
_sent = select(_part[0].label("task_id"), _part[1].label("folded"), _part[2].label("words"), user.label("user_id")).cte(
    "sent"
)
_sent = _sent.prefix_with("MATERIALIZED")
_new = insert_on_conflict(words).from_select(
    ["task_id", "user_id", "folded", "words", *KEPT_ORDERS],
    # A task that is gone for good has no words any more.
    select(
        tasks.c.id,
        tasks.c.user_id,
        _sent.c.folded,
        cast(_sent.c.words, words.c.words.type),
        *(tasks.c[name] for name in KEPT_ORDERS),
    )
    .select_from(_sent.join(tasks, and_(tasks.c.id == _sent.c.task_id, tasks.c.user_id == _sent.c.user_id)))
    .where(_sent.c.task_id.is_not(None)),
)
STORE_WORDS = Statement(
    _new.on_conflict_do_update(
        index_elements=["task_id"], set_={name: _new.excluded[name] for name in ("folded", "words", *KEPT_ORDERS)}
    )
)
"""Rows of task id, folded text and words."""
