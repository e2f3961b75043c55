"""The full-text index of revision 0003: FTS5 with its triggers on SQLite, GIN on PostgreSQL.

Built from constants alone. FTS5 keeps no copy of the words: it is told the old ones when a row changes or goes, also
when it goes with its task.
"""

from alembic import op

_FORGET = "INSERT INTO task_words_index (task_words_index, rowid, words) VALUES ('delete', OLD.number, OLD.words);"
_LEARN = "INSERT INTO task_words_index (rowid, words) VALUES (NEW.number, NEW.words);"
_TRIGGERS = {
    "task_words_added": f"AFTER INSERT ON task_words BEGIN {_LEARN} END",
    "task_words_changed": f"AFTER UPDATE ON task_words BEGIN {_FORGET} {_LEARN} END",
    "task_words_removed": f"AFTER DELETE ON task_words BEGIN {_FORGET} END",
}


def create(dialect: str) -> None:
    """The words come cut: to FTS5's tokenizer `ascii` whatever lies beyond ASCII is a part of a word."""
    if dialect == "postgresql":
        op.execute("CREATE INDEX ix_task_words_words ON task_words USING gin (words) WITH (fastupdate = off)")
        return
    op.execute(
        "CREATE VIRTUAL TABLE task_words_index USING fts5(words, content='task_words', content_rowid='number', "
        "tokenize='ascii', detail='none', columnsize=0)"
    )
    for name, body in _TRIGGERS.items():
        op.execute(f"CREATE TRIGGER {name} {body}")


def drop(dialect: str) -> None:
    """PostgreSQL's index and SQLite's triggers go with their table."""
    if dialect == "sqlite":
        for name in _TRIGGERS:
            op.execute(f"DROP TRIGGER {name}")
        op.execute("DROP TABLE task_words_index")
