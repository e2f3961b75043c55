"""Where a value comes from beside the environment, and the fault that names what is wrong with one."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic_settings import BaseSettings, PydanticBaseSettingsSource


class SettingsFault(Exception):
    """The settings cannot be used. `faults` has one line each, naming the setting and the remedy."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))


class FileSource(PydanticBaseSettingsSource):
    """`NAME_FILE` holds the path of a file whose content is the value: the form in which secrets are mounted."""

    def __init__(self, settings_cls: type[BaseSettings], environ: Mapping[str, str]) -> None:
        super().__init__(settings_cls)
        self._environ = environ

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        """Read one file, or answer nothing; `load_settings` tells of a file that cannot be read."""
        path = self._environ.get(f"{field_name.upper()}_FILE")
        if not path or file_fault(field_name, self._environ):
            return None, field_name, False
        return Path(path).read_text(encoding="utf-8").strip(), field_name, False

    def __call__(self) -> dict[str, Any]:
        """Every setting that a file gives."""
        found = ((name, self.get_field_value(None, name)[0]) for name in self.settings_cls.model_fields)
        return {name: value for name, value in found if value is not None}


def file_fault(field_name: str, environ: Mapping[str, str]) -> str | None:
    """What keeps the mounted file of one setting from being read, as a line of `SettingsFault`."""
    name = f"{field_name.upper()}_FILE"
    path = environ.get(name)
    if not path:
        return None
    if environ.get(field_name.upper()):
        return f"{name}: {field_name.upper()} is set too; keep one of the two"
    try:
        Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        return f"{name}: cannot read {path} ({reason}); give a readable file"
    return None
