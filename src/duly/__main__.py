"""The console script `duly`, and `python -m duly`."""

import gc

# Nothing that an import makes is garbage, and looking for some takes a quarter of the start. What is there by then
# stays to the end, and is not looked at again.
gc.disable()
from duly.cli.main import run  # noqa: E402

gc.freeze()
gc.enable()

if __name__ == "__main__":
    run()
