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

# Seconds for which the event loop waits for a thread that computes, such as one that estimates how hard a password is,
# and SQLite's writer for a busy loop between its steps. Python's own choice is 25 times as long; with a fifth of a
# millisecond instead of one, W1 on SQLite has 1.2 times the rate, and reads the same.
sys.setswitchinterval(0.0002)
