"""The figures of scheduled backups."""

from collections.abc import Iterable

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from duly.operations.schedule import BackupSchedule
from duly.web.metrics import Figures


def backup_figures(schedule: BackupSchedule) -> Figures:
    """When the newest backup in BACKUP_DIR was begun, 0 when there is none, and how large it is."""

    def figures() -> Iterable[Metric]:
        yield GaugeMetricFamily(
            "duly_backup_last_success_timestamp_seconds",
            "When the newest scheduled backup was begun; 0: there is none.",
            value=schedule.last_success or 0,
        )
        yield GaugeMetricFamily(
            "duly_backup_last_size_bytes", "Size of the newest scheduled backup.", value=schedule.last_bytes
        )

    return figures
