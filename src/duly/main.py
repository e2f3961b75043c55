"""`app` for any ASGI server: `uvicorn duly.main:app`."""

import sys

from duly.app import create_app
from duly.settings import SettingsFault

try:
    app = create_app()
except SettingsFault as fault:
    sys.exit("\n".join(f"duly: {line}" for line in fault.faults))
