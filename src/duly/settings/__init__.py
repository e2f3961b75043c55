"""Every setting, typed and read once; no other module reads the environment."""

from duly.settings.loading import load_settings
from duly.settings.sources import SettingsFault
from duly.settings.values import Settings

__all__ = ["Settings", "SettingsFault", "load_settings"]
