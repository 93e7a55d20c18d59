#!/usr/bin/env bash
# Trains with N processes on one machine, each with K virtual CPU devices, as N
# hosts would. To try a mesh, a resume or a failure, not for speed.
#   bash launch/local_pod.sh N [FLAGS] \
#     -- --config=configs/ccl.py:size=tiny --workdir=DIR --config.data.path=DIR
# Flags:
#   --devices=1   virtual devices of each process
#   --grace=60    seconds that the others have to end when one has failed
#   --dry-run     print the commands, run none
# Lines of output begin with the number of their process. After SIGTERM or Ctrl-C
# all save and end. The code is that of the first process that fails; 2 is a
# wrong flag or config.
# The others end CCL_PEER_TIMEOUT seconds (default 20) after one has died.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
declare -A flag=([devices]=1 [grace]=60 [dry-run]=no)
[[ ${1-} != --help ]] || { usage && exit; }
[[ ${1-} =~ ^[1-9][0-9]*$ ]] ||
  fail "expected the number of processes first, got '${1-}'; see --help"
count=$1
shift
parse_flags "$@"
need_number devices grace
((${#training[@]})) || fail "expected training flags after --; see --help"
[[ ${flag[dry-run]} == yes ]] || source launch/environment.sh
export CCL_PEER_TIMEOUT="${CCL_PEER_TIMEOUT:-20}"

free_port() {
  python -c 'import socket
with socket.socket() as s:
  s.bind(("127.0.0.1", 0))
  print(s.getsockname()[1])'
}

# Starts process $1 in the background and puts its id into `pids`.
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

# Waits for all processes, at most --grace seconds after the first failure.
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

pids=() failed=0
if [[ ${flag[dry-run]} == yes ]]; then port=PORT; else port=$(free_port); fi
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' TERM INT
for ((i = 0; i < count; i++)); do start "$i"; done
watch
exit "$failed"
