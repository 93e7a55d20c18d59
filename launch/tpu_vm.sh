#!/usr/bin/env bash
# Trains on Cloud TPU VMs of a queued resource, which is created again when it is
# preempted; training then resumes from the checkpoints in its workdir.
#   bash launch/tpu_vm.sh SUBCOMMAND --name=NAME --zone=ZONE [FLAGS] \
#     -- --config=configs/ccl.py:size=14b,stage=joint --workdir=gs://... \
#     --config.data.path=gs://...
# Subcommands:
#   up      does all of: create, setup, run and watch
#   create  requests the slices and waits until they are active
#   setup   copies this checkout to every host and installs its requirements
#   run     starts the training on every host, in the background
#   watch   waits until training has finished; restarts it after a failure
#   logs    follows the output of host 0
#   stop    stops the training after it has saved (end `watch` first)
#   delete  deletes the slices (the workdir stays)
# Flags:
#   --type=v5p-128        accelerator type, for create, up and watch
#   --slices=1            more than 1 is multislice
#   --spot | --reserved   instead of on demand
#   --runtime=VERSION     TPU software version; that of the type if not set
#   --project=ID          gcloud's default if not set
#   --git=URL             clone this, instead of copying the tracked files here,
#   --revision=main       at this branch, tag or commit
#   --max-restarts=20     how often `up` and `watch` restart
#   --iap                 connect to the hosts through Identity-Aware Proxy
#   --extra=FLAG          one more flag for gcloud's create (repeatable)
#   --compilation-cache=gs://...  keep compiled programs there, for hosts that are
#                         made anew; only you may have the right to write to it
#   --dry-run             print the commands, run none
# Queued resources end with v6e: from tpu7x on use gke.sh, or a managed instance
# group of Compute Engine with a workload policy, whose hosts run worker.sh.
# `watch` polls every POLL_SECONDS (default 30). For more than one host, run
# `ssh-add ~/.ssh/google_compute_engine` first.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
declare -A flag=(
  [name]="" [zone]="" [type]="" [slices]=1 [spot]=no [reserved]=no
  [runtime]="" [project]="" [git]="" [revision]=main [max-restarts]=20
  [iap]=no [extra]="" [compilation-cache]="" [dry-run]=no
)

tpu() { run gcloud compute tpus queued-resources "$@" "${where[@]}" --quiet; }

# No command here waits for other hosts, so gcloud may run them in batches.
on_hosts() { tpu ssh "${flag[name]}" "${hosts[@]}" --command="$1"; }

runtime_of_type() {
  case ${flag[type]} in
    v5p-*) echo v2-alpha-tpuv5 ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    v[234]-*) echo tpu-ubuntu2204-base ;;
    tpu*)
      fail "--type=${flag[type]}: the Cloud TPU API has no slices from tpu7x on;" \
        "use launch/gke.sh, or a managed instance group of Compute Engine"
      ;;
    *) fail "--type=${flag[type]}: no default for --runtime=VERSION; set it" ;;
  esac
}

request() {
  local options=(--accelerator-type="${flag[type]}")
  options+=(--runtime-version="${flag[runtime]}")
  if ((flag[slices] > 1)); then
    options+=(--node-count="${flag[slices]}")
  else
    options+=(--node-id="${flag[name]}")
  fi
  [[ ${flag[spot]} == no ]] || options+=(--spot)
  [[ ${flag[reserved]} == no ]] || options+=(--reserved)
  tpu create "${flag[name]}" "${options[@]}" "${extra[@]}"
}

# ACTIVE, SUSPENDED, ...; GONE if it was deleted; UNKNOWN if gcloud failed.
look() {
  local answer
  if answer=$(tpu describe "${flag[name]}" --format='value(state.state)' 2>&1)
  then
    tail -n 1 <<<"$answer"
  elif [[ $answer == *NOT_FOUND* ]]; then
    echo GONE
  else
    say "$answer" && echo UNKNOWN
  fi
}

create() {
  local state
  request
  [[ ${flag[dry-run]} == no ]] || { look && return; }
  while state=$(look) && [[ $state != ACTIVE ]]; do
    [[ ! $state =~ ^(FAILED|SUSPENDED|GONE)$ ]] ||
      fail "${flag[name]} is $state; gcloud compute tpus queued-resources" \
        "describe ${flag[name]} --zone=${flag[zone]} may say why"
    pause "$state"
  done
}

setup() {
  local url revision="" archive=runs/ccl_jax.tar.gz
  if [[ -n ${flag[git]} ]]; then
    url=$(quoted "${flag[git]}") revision=$(quoted "${flag[revision]}")
    on_hosts "{ test -d ccl_jax || git clone --quiet --no-checkout $url ccl_jax
      } && cd ccl_jax && git fetch --quiet origin $revision &&
      git checkout --quiet FETCH_HEAD && bash launch/worker.sh setup"
    return
  fi
  # A stash commit holds the tracked files with their changes since HEAD.
  [[ ${flag[dry-run]} == yes ]] || revision=$(mkdir -p runs; git stash create)
  run git archive --output="$archive" "${revision:-HEAD}" &&
    tpu scp "$archive" "${flag[name]}:ccl_jax.tar.gz" "${hosts[@]}" &&
    on_hosts "mkdir -p ccl_jax && tar -xzf ccl_jax.tar.gz -C ccl_jax &&
      bash ccl_jax/launch/worker.sh setup"
}

# JAX_PLATFORMS: without its TPU a host fails instead of training on the CPU.
start() {
  local command=JAX_PLATFORMS=tpu,cpu
  [[ -z ${flag[compilation-cache]} ]] || command+=" JAX_COMPILATION_CACHE_DIR=$(
    quoted "${flag[compilation-cache]}"
  )"
  command+=" bash ccl_jax/launch/worker.sh start $(quoted "${training[@]}")"
  on_hosts "$command"
}

ask_hosts() {
  on_hosts "if test -d ccl_jax; then bash ccl_jax/launch/worker.sh status
    else echo worker: none; fi"
}

# Prints the status of all hosts as one: refused, failed, none, running or
# finished.
training_status() {
  local answer word code=0
  answer=$(ask_hosts 2>&1) || code=$?
  for word in refused failed none running finished unreachable; do
    if ((code == 0)) && grep -qx "worker: $word" <<<"$answer"; then break; fi
  done
  [[ ! $word =~ refused|failed|unreachable ]] || say "$answer"
  echo "$word"
}

pause() {
  [[ $1 == "$last" ]] || say "$1"
  last=$1
  sleep "${POLL_SECONDS:-30}"
}

# Counts one restart, or gives up.
again() {
  ((restarts < flag[max-restarts])) ||
    fail "$1; giving up after $restarts restarts"
  restarts=$((restarts + 1))
  say "$1; restart $restarts of ${flag[max-restarts]}"
}

recreate() {
  again "the slices are $1"
  tpu delete "${flag[name]}" --force || say "gcloud could not delete them"
  until request; do
    pause "gcloud could not create them"
    again "the slices are deleted"
  done
}

# Recreates slices and restarts training as needed, until it has finished.
# $1: yes if the training has not been started yet, so that this is no restart.
watch() {
  local state failures=0 is_new=$1
  while :; do
    state=$(look)
    [[ $state != ACTIVE ]] || state=$(training_status)
    [[ $state == failed ]] || failures=0
    [[ $state$is_new != refusedno ]] ||
      fail "a flag or the config is wrong, see above; not started again"
    case $state in
      finished) say "training has finished" && return ;;
      GONE) fail "${flag[name]} was deleted" ;;
      SUSPENDED | FAILED) recreate "$state" && is_new=yes ;;
      refused | failed | none)
        # On preemption training fails before the slices' state changes: poll
        # again.
        if [[ $state == failed ]] && ((++failures < 3)); then
          pause "training has failed"
          continue
        fi
        [[ $is_new == yes ]] || again "training: $state"
        is_new=no failures=0
        if setup && start; then pause "started"; else pause "setup failed"; fi
        ;;
      *) pause "$state" ;;
    esac
  done
}

up() {
  if [[ ${flag[dry-run]} == yes ]]; then
    create && setup && start && ask_hosts
    return
  fi
  [[ $(look) != GONE ]] || request
  watch yes
}

subcommand=${1:-}
case $subcommand in
  up | create | setup | run | watch | logs | stop | delete) shift ;;
  --help) usage && exit 0 ;;
  *) fail "expected a subcommand, not '$subcommand'; see --help" ;;
esac
parse_flags "$@"
need name zone
need_positive slices
need_number max-restarts
[[ ${flag[spot]}${flag[reserved]} != yesyes ]] ||
  fail "--spot and --reserved exclude each other"
if [[ $subcommand =~ ^(up|create|watch)$ ]]; then
  need type
  flag[runtime]=${flag[runtime]:-$(runtime_of_type)}
fi
[[ ! $subcommand =~ ^(up|run|watch)$ ]] || need_workdir gs://
where=(--zone="${flag[zone]}") hosts=(--node=all --worker=all)
[[ -z ${flag[project]} ]] || where+=(--project="${flag[project]}")
[[ ${flag[iap]} == no ]] || hosts+=(--tunnel-through-iap)
restarts=0 last=""
case $subcommand in
  up | create | setup) "$subcommand" ;;
  run) start ;;
  watch) if [[ ${flag[dry-run]} == yes ]]; then ask_hosts; else watch no; fi ;;
  logs)
    hosts=(--node=0 --worker=0 "${hosts[@]:2}")
    on_hosts "bash ccl_jax/launch/worker.sh log"
    ;;
  stop) on_hosts "bash ccl_jax/launch/worker.sh stop" ;;
  delete) tpu delete "${flag[name]}" --force ;;
esac
