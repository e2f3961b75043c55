"""`app` for any ASGI server: `uvicorn duly.main:app`."""

import gc
import sys

from duly.app import create_app
from duly.settings import SettingsFault

try:
    app = create_app()
except SettingsFault as fault:
    sys.exit("\n".join(f"duly: {line}" for line in fault.faults))

# What is there now stays, and need not be looked at again. By Python's own thresholds many clients that connect are
# enough for it to look at everything, and nobody is answered meanwhile; almost nothing of Duly needs it, because
# references are counted.
gc.freeze()
gc.set_threshold(5_000, 10, 20)

# How long the event loop waits for a thread that computes, such as one that estimates how hard a password is to guess:
# seconds, and Python's own choice is five times as long.
sys.setswitchinterval(0.001)
