#!/usr/bin/env bash
# Trains on one host of a pod. The launchers run it there:
#   bash launch/worker.sh setup        makes .venv with the packages of a TPU host
#   bash launch/worker.sh train FLAGS  trains in the foreground (GKE, Slurm)
#   bash launch/worker.sh start FLAGS  trains in the background (TPU VMs)
#   bash launch/worker.sh status       prints "worker: " and none, running,
#                                      finished, refused or failed
#   bash launch/worker.sh log          follows the output of the background run
#   bash launch/worker.sh stop         stops it after it has saved
# `train` ends with the code of the training program, but with 143 after a
# SIGTERM. 2 is a wrong flag or config ("refused"): another start is of no use.
# `stop` waits STOP_SECONDS (default 300) before it kills the run.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
state=runs/worker # pid, code (once ended) and log of the background run

setup() {
  if [[ ! -x .venv/bin/python ]]; then
    # The Python 3.10 of TPU images is too old for JAX; uv fetches a newer one.
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
  setsid nohup bash launch/worker.sh background "$@" \
    >>"$state/log" 2>&1 </dev/null &
  echo $! >"$state/pid"
}

background() {
  local code=0
  train "$@" || code=$?
  echo "$code" >"$state/code.partial"
  mv "$state/code.partial" "$state/code"
}

# Whether the process of `start` runs: its id may belong to another one by now.
is_running() {
  [[ -e $state/pid ]] &&
    grep -qs worker.sh "/proc/$(<"$state/pid")/cmdline"
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
    [[ ! -e $state/code || $(<"$state/code") != 2 ]] || word=refused
    tail -n 5 "$state/log" >&2
  fi
  echo "worker: $word"
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
