#!/usr/bin/env bash
# A pod on one machine: N processes with K virtual CPU devices each train
# together, as N hosts would. To try a mesh, a resume or a failure, not for speed.
#   bash launch/local_pod.sh N [FLAGS] \
#     -- --config=configs/ccl.py:size=tiny --workdir=DIR --config.data.path=DIR
# Flags:
#   --devices=1   virtual devices of each process
#   --grace=60    seconds that the others have to end when one has failed
#   --dry-run     print the commands, run none
# Lines of output begin with the number of their process. SIGTERM and Ctrl-C ask
# all to save and end. Ends with the code of the first process that fails.
# CCL_PEER_TIMEOUT (default 20) is after how many seconds the silence of a
# process ends the others.
source "$(dirname "${BASH_SOURCE[0]}")/options.sh"
declare -A flag=([devices]=1 [grace]=60 [dry-run]=no)
[[ ${1-} != --help ]] || { usage && exit; }
[[ ${1-} =~ ^[1-9][0-9]*$ ]] ||
  fail "expected the number of processes first, got '${1-}'; see --help"
count=$1
shift
parse_flags "$@"
need_number devices grace
((${#training[@]})) || fail "give the training flags behind --; see --help"
source launch/environment.sh
export CCL_PEER_TIMEOUT="${CCL_PEER_TIMEOUT:-20}"

free_port() {
  python -c 'import socket
with socket.socket() as s:
  s.bind(("127.0.0.1", 0))
  print(s.getsockname()[1])'
}

# Process $1, its output marked, in the background; its id goes to `pids`.
start() {
  local virtual=--xla_force_host_platform_device_count=${flag[devices]}
  local command=(
    env JAX_PLATFORMS=cpu "XLA_FLAGS=${XLA_FLAGS:+$XLA_FLAGS }$virtual"
    python -u -m ccl_jax.train "--distributed=127.0.0.1:$port,$count,$1"
    "${training[@]}"
  )
  if [[ ${flag[dry-run]} == yes ]]; then
    run "${command[@]}"
  else
    "${command[@]}" > >(sed -u "s/^/[$1] /") 2>&1 &
    pids[$1]=$!
  fi
}

# Waits for all; after the first failure no longer than --grace.
watch() {
  local i code deadline=0
  while ((${#pids[@]})); do
    for i in "${!pids[@]}"; do
      ! kill -0 "${pids[i]}" 2>/dev/null || continue
      code=0
      wait "${pids[i]}" || code=$?
      unset "pids[i]"
      ((code)) || continue
      say "process $i ended with code $code"
      if ! ((failed)); then
        failed=$code deadline=$((SECONDS + flag[grace]))
      fi
    done
    if ((failed && SECONDS >= deadline && ${#pids[@]})); then
      say "killing process ${!pids[*]}"
      kill -KILL "${pids[@]}" || true
    fi
    sleep 0.2
  done
}

port=$(free_port) pids=() failed=0
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' TERM INT
for ((i = 0; i < count; i++)); do start "$i"; done
watch
exit "$failed"
