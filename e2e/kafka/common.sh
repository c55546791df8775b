# shellcheck shell=bash
# shellcheck disable=SC2034 # the names are for who sources this
# What fetch, up, down and admin share: where the jars are, and which process is the broker of a DIR. Sourced, never run.

KAFKA_VERSION=4.1.1
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# The cache is named by version, so that a new one is fetched and an old checkout still finds its own.
LIBS=${STENO_E2E_CACHE:-$HOME/.cache/steno/e2e}/kafka-$KAFKA_VERSION/libs

die() {
  echo "${0##*/}: $*" >&2
  exit 1
}

# broker_pid DIR: prints the broker's pid, or fails when none runs. A pid file outlives a crash and its number may by
# then be another process's, so the command line must name DIR's own configuration.
broker_pid() {
  local pid
  pid=$(cat "$1/kafka.pid" 2>/dev/null) && [ -n "$pid" ] || return 1
  tr '\0' '\n' 2>/dev/null <"/proc/$pid/cmdline" | grep -qxF "$1/server.properties" || return 1
  echo "$pid"
}
