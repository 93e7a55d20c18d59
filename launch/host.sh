#!/usr/bin/env bash
# What every host of a pod does. The launchers call it, on the host:
#   bash launch/host.sh setup        makes .venv with what a TPU host needs
#   bash launch/host.sh train FLAGS  trains in the foreground (GKE, Slurm)
#   bash launch/host.sh start FLAGS  trains in the background (TPU VMs)
#   bash launch/host.sh status       "host: " none, running, finished or failed
#   bash launch/host.sh log          follows the output of the background run
#   bash launch/host.sh stop         asks it to save and end, and waits
# train ends with the code of the training program, but with 143 after a
# SIGTERM. STOP_SECONDS (default 300) is how long `stop` waits before it kills.
source "$(dirname "${BASH_SOURCE[0]}")/options.sh"
state=runs/host # pid, code (once ended) and log of the background run

setup() {
  if [[ ! -x .venv/bin/python ]]; then
    # TPU images bring Python 3.10, too old for JAX; uv fetches a newer one.
    PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user \
      uv==0.13.9
    python3 -m uv venv --quiet --seed --python=3.12 .venv
  fi
  .venv/bin/python -m pip install --quiet --disable-pip-version-check \
    -r requirements.txt -r launch/requirements.txt
}

train() {
  [[ ! -d .venv ]] || PATH="$PWD/.venv/bin:$PATH"
  supervise python -m ccl_jax.train --distributed=auto "$@"
}

start() {
  stop
  mkdir -p "$state"
  rm -f "$state/code"
  setsid nohup bash launch/host.sh background "$@" \
    >>"$state/log" 2>&1 </dev/null &
  echo $! >"$state/pid"
}

background() {
  local code=0
  train "$@" || code=$?
  echo "$code" >"$state/code.partial"
  mv "$state/code.partial" "$state/code"
}

# Whether the process that `start` made lives (numbers are given out again).
is_running() {
  [[ -e $state/pid ]] &&
    grep -qs host.sh "/proc/$(<"$state/pid")/cmdline"
}

status() {
  local word=failed
  if is_running; then
    word=running
  elif [[ ! -e $state/pid ]]; then
    word=none
  elif [[ -e $state/code && $(<"$state/code") == 0 ]]; then
    word=finished
  else
    tail -n 5 "$state/log" >&2
  fi
  echo "host: $word"
}

log() { tail -n 50 -F "$state/log"; }

stop() {
  local pid end=$((SECONDS + ${STOP_SECONDS:-300}))
  is_running || return 0
  pid=$(<"$state/pid")
  kill -TERM "$pid"
  while is_running; do
    ((SECONDS < end)) || kill -KILL -- "-$pid" # its whole process group
    sleep 0.2
  done
}

case ${1:-} in
  setup | train | start | background | status | log | stop) "$@" ;;
  --help) usage ;;
  *) fail "unknown subcommand '${1:-}'; see --help" ;;
esac
