# What the scripts here share: one-line errors that say what to do, and --dry-run.
program="$(basename "$0")"
dry_run=no

say() {
  echo "$program: $*"
}

stop() {
  echo "$program: $*" >&2
  exit 1
}

# The value of an option; the option itself comes first.
value() {
  if [ $# -lt 2 ] || [ -z "$2" ]; then stop "$1 needs a value; see $program --help"; fi
  printf '%s' "$2"
}

# Runs a command, or only names it.
run() {
  if [ "$dry_run" = yes ]; then
    printf '%s: would run:' "$program"
    printf ' %q' "$@"
    printf '\n'
    return
  fi
  "$@"
}
