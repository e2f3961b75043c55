"""Opens the store that the settings name."""

from duly.files.bucket import BucketFiles, parse_bucket_address
from duly.files.local import LocalFiles
from duly.files.store import FileStore
from duly.settings import Settings


def open_files(settings: Settings) -> FileStore | None:
    """The object store of `FILES_URL`, else the folder `FILES_DIR`; None without attachments. Nothing is touched yet.

    Raises ValueError with one line when `FILES_URL` cannot be used.
    """
    if not settings.attachments_enabled:
        return None
    if settings.files_url is not None:
        return BucketFiles(parse_bucket_address(settings.files_url.get_secret_value()))
    return LocalFiles(settings.files_dir or settings.data_dir / "files")
