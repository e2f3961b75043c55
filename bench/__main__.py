"""The command line: `python -m bench`, and with an action such as `setup` or `isolation` behind it."""

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType

from bench import environment, instructions, rest, streams, tricks, users, workers
from bench.accounts import SIZES, grow
from bench.compare import SERVERS, Plan, compare
from bench.failure import BenchError
from bench.floods import withstand
from bench.isolation import LOGIN_LOOPS, isolate
from bench.layers import share_out
from bench.load import Load
from bench.progress import say
from bench.report import render
from bench.scale import project
from bench.stalls import watch
from bench.workload import WORKLOADS, Scale

POSTGRES = "postgresql://postgres@127.0.0.1:5432"
REPORTS = {
    "isolation": isolate, "floods": withstand, "scale": project, "stalls": watch, "layers": share_out,
    "tricks": tricks.measure, "workers": workers.measure, "users": users.crowd, "streams": streams.listen,
    "rest": rest.weigh, "instructions": instructions.count,
}  # fmt: skip
ACTIONS = ("compare", "setup", "accounts", *REPORTS)
BOTH = ("duly-sqlite", "duly-postgres:1")
# What is about Duly alone; totals are remembered by each worker for itself, so accounts are asked for of one.
OURS = {
    "isolation": ("duly-sqlite", "duly-postgres"),
    "accounts": ("duly-sqlite", "duly-postgres:1"),
    "floods": ("duly-sqlite",),
    **dict.fromkeys(("stalls", "layers", "tricks", "users", "streams", "rest", "instructions"), BOTH),
    "workers": ("duly-postgres",),  # SQLite always has one
}


def split_names(text: str) -> list[str]:
    """Comma-separated names, blanks around them dropped."""
    return [name.strip() for name in text.split(",") if name.strip()]


def positive(text: str) -> int:
    """A whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def make_parser() -> argparse.ArgumentParser:
    """The options, with the defaults of a full run."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure Duly beside its peers.")
    parser.add_argument("action", nargs="?", choices=ACTIONS, default="compare")
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--seconds", type=positive, default=3, help="length of a window (default 3)")
    parser.add_argument("--only", type=split_names, metavar="A,B", help="servers to run, as NAME or NAME:WORKERS")
    parser.add_argument("--workloads", type=split_names, default=list(WORKLOADS), metavar="R1,R2,W1")
    parser.add_argument("--connections", type=positive, default=32)
    parser.add_argument("--users", type=positive, default=100)
    parser.add_argument("--tasks", type=positive, default=1_000, help="tasks per user (default 1000)")
    parser.add_argument("--sizes", type=positive, nargs="+", default=list(SIZES), help="accounts' tasks, for accounts")
    parser.add_argument("--with-fastify", action="store_true", help="with the Node peer too")
    parser.add_argument("--postgres", default=POSTGRES, metavar="URL", help=f"server to use (default {POSTGRES})")
    parser.add_argument("--duly-env", action="append", default=[], metavar="NAME=VALUE", help="a setting for Duly")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the report there too")
    return parser


def make_plan(given: argparse.Namespace) -> Plan:
    """The plan that the options describe; BenchError for what no server or workload is called."""
    names = OURS.get(given.action) or [n for n in SERVERS if n != "fastify" or given.with_fastify]
    unknown = [name for name in given.workloads if name not in WORKLOADS]
    settings = dict(pair.partition("=")[::2] for pair in given.duly_env)
    if unknown:
        raise BenchError(f"no workload {unknown[0]!r}; there are {', '.join(WORKLOADS)}")
    servers = list(dict.fromkeys(given.only or names))
    if given.with_fastify and "fastify" not in servers:
        servers.append("fastify")
    if given.action in {"isolation", "stalls"} and given.users < LOGIN_LOOPS:
        raise BenchError(f"{given.action} needs at least {LOGIN_LOOPS} users")
    return Plan(
        servers=servers,
        workloads=given.workloads,
        rounds=given.rounds,
        load=Load(given.connections, given.seconds),
        scale=Scale(given.users, given.tasks),
        postgres=given.postgres,
        duly_settings=settings,
    )


def run(given: argparse.Namespace) -> int:
    """Do what the command line says; returns the exit code."""
    if given.action == "setup":
        environment.set_up(with_fastify=given.with_fastify)
        return 0
    if sys.platform != "linux":
        raise BenchError("the harness reads /proc/stat, so it runs on Linux only")
    plan = make_plan(given)
    if given.action == "accounts":
        return grow(plan, given.sizes)
    environment.require_wrk()
    if given.action in REPORTS:
        return REPORTS[given.action](plan)
    results = compare(plan)
    report = render(plan, results)
    print(report, end="")
    if given.markdown:
        given.markdown.write_text(report)
    errors = results.count_errors()
    if errors:
        say(f"!!! {errors:,} REQUESTS FAILED: these figures do not count")
    return int(errors > 0)


def interrupt(_number: int, _frame: FrameType | None) -> None:
    """Turn a request to end into Ctrl-C, so that the servers are ended on the way out."""
    raise KeyboardInterrupt


def main() -> int:
    """Run, with every foreseeable failure told in plain words."""
    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGHUP, interrupt)
    try:
        return run(make_parser().parse_args())
    except BenchError as error:
        say(f"bench: {error}")
        return 1
    except KeyboardInterrupt:
        say("bench: interrupted; all servers are ended")
        return 130


if __name__ == "__main__":
    sys.exit(main())
