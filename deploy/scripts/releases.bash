# What deploy and roll-back share: releases side by side, and a link to the one that runs.
releases="${DEPLOY_RELEASES:-/opt/duly-releases}"
link="${DEPLOY_LINK:-/opt/duly}"
# Runs a command of Duly with the settings and as the user of the services.
run_command="${DEPLOY_RUN_COMMAND:-systemd-run --quiet --pipe --wait --collect -p User=duly -p Group=duly -p EnvironmentFile=/etc/duly/duly.env -p WorkingDirectory=/var/lib/duly}"
restart_options=()

# The release that the link names, or nothing.
running_release() {
  if [ -L "$link" ]; then basename "$(readlink "$link")"; fi
}

# Duly's own command, of one release.
duly_of() {
  local release="$1"
  shift
  # shellcheck disable=SC2086 # the prefix is words
  $run_command "$releases/$release/bin/duly" "$@"
}

# One rename: there is no moment without a link.
point_to() {
  ln -sfn "$releases/$1" "$link.new"
  mv -T "$link.new" "$link"
}

# Without the lock's file: a server that the restart command starts would hold it for as long as it lives.
roll() {
  "$(dirname "${BASH_SOURCE[0]}")/rolling-restart" "${restart_options[@]}" 9>&-
}

# One deployment at a time.
lock_releases() {
  mkdir -p "$releases" 2>/dev/null || stop "$releases cannot be made; run this as root, or name another with --releases"
  exec 9>"$releases/.lock"
  flock --nonblock 9 || stop "another deployment is under way; wait until it is over"
}
