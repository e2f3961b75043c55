"""One change of the feed on the wire, alike in pages, events and messages."""

from duly.kit.clock import rfc3339
from duly.tasks.feed import TaskChange


def spell_change(change: TaskChange, kind: str = "type") -> str:
    """JSON; the task's document goes in as the database keeps it. `kind` is the name under which its type stands."""
    return (
        f'{{"cursor":"{change.cursor}","{kind}":"{change.type}","task_id":"{change.task_id}",'
        f'"at":"{rfc3339(change.at)}","task":{change.document or "null"}}}'
    )
