"""The application for `uvicorn main:app`, and `python main.py`, which is `duly serve`."""

import sys

if __name__ == "__main__":
    from duly.cli.main import run

    sys.argv.insert(1, "serve")
    run()
else:
    from duly.main import app

    __all__ = ["app"]
