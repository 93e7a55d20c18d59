#!/usr/bin/env bash
# Trains on the TPUs of a GKE cluster, as a JobSet that restarts when a host is
# lost; training then resumes from the checkpoints in its workdir.
#   bash launch/gke.sh SUBCOMMAND --name=NAME --image=IMAGE [FLAGS] \
#     -- --config=configs/ccl.py:size=14b,stage=joint --workdir=gs://... \
#     --config.data.path=gs://...
# Subcommands:
#   build   builds the image of this checkout and pushes it
#   render  prints the JobSet
#   run     starts the training
#   logs    follows the output of host 0
#   delete  deletes the JobSet (the workdir stays)
# Flags:
#   --image=REGISTRY/NAME:TAG    for build, render and run
#   --with=kubectl               or xpk, on a cluster that xpk made
#   --slices=1                   node pools to use; more than 1 is multislice
#   --max-restarts=20            how often all hosts restart
#   --grace=300                  seconds to end a step and save after SIGTERM
#   --ttl=86400                  seconds until a JobSet that has ended is deleted
#   --priority=CLASS             Kueue's workload priority class, or xpk's priority
#   --uid=1000                   user in the container (of the image, with xpk); 0,
#                                root, if the TPU's device files need it
#   --compilation-cache=gs://... keep compiled programs there, for pods that are
#                                made anew; only you may have the right to write
#   --profiler-port=PORT         where host 0 answers who asks for a profile
#   --dry-run                    print the commands, run none
# kubectl (its current context):
#   --privileged                 the container; for GKE older than 1.28
#   --host-memory                /dev/shm is the host's, and outlives the pods, for
#                                --config.checkpoint.emergency_folder=/dev/shm/ccl
#   --accelerator=tpu-v5p-slice  as the node pool's label says
#   --topology=4x4x4             of a slice, as the node pool's label says
#   --chips=4                    per host
#   --namespace=default, --service-account=default
#   --queue=NAME                 Kueue's local queue, which then starts the job
# xpk:
#   --type=v5p-128 --cluster=NAME --zone=ZONE --project=ID
#   --extra=FLAG                 one more flag for xpk (repeatable)
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
declare -A flag=(
  [name]="" [image]="" [with]=kubectl [slices]=1 [max-restarts]=20
  [uid]=1000 [grace]=300 [ttl]=86400 [priority]="" [queue]=""
  [compilation-cache]="" [profiler-port]=0
  [accelerator]=tpu-v5p-slice [topology]=4x4x4 [chips]=4 [namespace]=default
  [service-account]=default [type]=v5p-128 [cluster]="" [zone]="" [project]=""
  [extra]="" [privileged]=no [host-memory]=no [dry-run]=no
)

build() {
  run docker build --file=launch/Dockerfile --tag="${flag[image]}" \
    --platform=linux/amd64 --build-arg=UID="${flag[uid]}" .
  run docker push "${flag[image]}"
}

# Kubernetes replaces $(NAME) in commands, and reads $$ as $.
without_dollars() { printf '%s' "${1//\$/\$\$}"; }

json() {
  local text=${1//\\/\\\\}
  printf '"%s"' "${text//\"/\\\"}"
}

# The labels by which Kueue knows the job.
labels() {
  local text=""
  [[ -z ${flag[queue]} ]] ||
    text+=", \"kueue.x-k8s.io/queue-name\": $(json "${flag[queue]}")"
  [[ -z ${flag[priority]} ]] ||
    text+=", \"kueue.x-k8s.io/priority-class\": $(json "${flag[priority]}")"
  printf '{%s}' "${text:2}"
}

# The environment of the containers, NAME=VALUE each.
environment() {
  # Without its TPU a host fails instead of training on the CPU.
  echo JAX_PLATFORMS=tpu,cpu
  [[ -z ${flag[compilation-cache]} ]] ||
    echo JAX_COMPILATION_CACHE_DIR="${flag[compilation-cache]}"
}

# Replaces @$1@ in `text` by $2.
fill() { text=${text//"@$1@"/"$2"}; }

render() {
  local text name word flags="" chips variables="" ports=""
  text=$(<launch/jobset.yaml)
  [[ ${flag[topology]} =~ ^[1-9][0-9]*(x[1-9][0-9]*)+$ ]] ||
    fail "--topology=${flag[topology]}: expected sizes such as 4x4x4"
  chips=$((${flag[topology]//x/*}))
  ((chips % flag[chips] == 0)) ||
    fail "--topology=${flag[topology]} has $chips chips, no multiple of" \
      "--chips=${flag[chips]} per host"
  fill hosts $((chips / flag[chips]))
  for name in slices chips uid max-restarts grace ttl; do
    fill $name "${flag[$name]}"
  done
  if [[ ${flag[privileged]} == yes ]]; then word=true; else word=false; fi
  fill privileged "$word"
  word='emptyDir: {"medium": "Memory"}'
  [[ ${flag[host-memory]} == no ]] || word='hostPath: {"path": "/dev/shm"}'
  fill shared-memory "$word"
  fill labels "$(labels)"
  while IFS= read -r word; do
    variables+=", {\"name\": $(json "${word%%=*}"), \"value\": $(
      json "$(without_dollars "${word#*=}")"
    )}"
  done < <(environment)
  fill environment "[${variables:2}]"
  ((flag[profiler-port] == 0)) ||
    ports="{\"name\": \"profiler\", \"containerPort\": ${flag[profiler-port]}}"
  fill ports "[$ports]"
  for name in name namespace service-account accelerator topology image; do
    fill $name "$(json "${flag[$name]}")"
  done
  for word in "${training[@]}"; do
    flags+=", $(json "$(without_dollars "$word")")"
  done
  fill flags "[${flags:2}]" # last, as the values may contain @name@
  printf '%s\n' "$text"
}

with_kubectl() {
  local manifest
  manifest=$(render)
  if [[ ${flag[dry-run]} == yes ]]; then
    printf "kubectl apply --filename=- <<'EOF'\n%s\nEOF\n" "$manifest"
  else
    kubectl apply --filename=- <<<"$manifest"
  fi
}

# By default xpk restarts only after codes from 127 on, but when a host is lost
# the others may end with 1; 2 is a wrong flag or config. `exec` lets SIGTERM through xpk's subshell.
with_xpk() {
  need type cluster zone project
  local command variable
  while IFS= read -r variable; do
    extra+=(--env="$variable")
  done < <(environment)
  [[ -z ${flag[priority]} ]] || extra+=(--priority="${flag[priority]}")
  command="exec $(quoted bash launch/worker.sh train "${training[@]}")"
  run xpk workload create --workload="${flag[name]}" \
    --cluster="${flag[cluster]}" --zone="${flag[zone]}" \
    --project="${flag[project]}" --tpu-type="${flag[type]}" \
    --num-slices="${flag[slices]}" --docker-image="${flag[image]}" \
    --max-restarts="${flag[max-restarts]}" --restart-on-exit-codes=1 \
    --termination-grace-period-seconds="${flag[grace]}" \
    --ttl-seconds-after-finished="${flag[ttl]}" \
    --command="$(without_dollars "$command")" "${extra[@]}"
}

logs() {
  local pod=jobset.sigs.k8s.io/jobset-name=${flag[name]}
  pod+=,jobset.sigs.k8s.io/job-index=0
  pod+=,batch.kubernetes.io/job-completion-index=0
  run kubectl logs --follow --namespace="${flag[namespace]}" --selector="$pod"
}

delete() {
  run kubectl delete jobset "${flag[name]}" --namespace="${flag[namespace]}"
}

subcommand=${1:-}
case $subcommand in
  build | render | run | logs | delete) shift ;;
  --help) usage && exit 0 ;;
  *) fail "expected a subcommand, not '$subcommand'; see --help" ;;
esac
parse_flags "$@"
need_positive slices chips grace
need_number max-restarts uid ttl profiler-port
[[ ${flag[with]} =~ ^(kubectl|xpk)$ ]] ||
  fail "--with=${flag[with]}: expected kubectl or xpk"
[[ $subcommand == build ]] || need name
[[ ${flag[name]} =~ ^([a-z]([a-z0-9-]{0,38}[a-z0-9])?)?$ ]] ||
  fail "--name=${flag[name]}: expected at most 40 of a-z, 0-9 and -"
if [[ $subcommand =~ ^(render|run)$ ]]; then
  need_workdir gs://
  ((flag[profiler-port] == 0)) ||
    training+=(--config.log.profiler_port="${flag[profiler-port]}")
  [[ ! "${training[*]}" =~ [[:cntrl:]] ]] ||
    fail "a training flag has a line break or another control character"
fi
[[ ! $subcommand =~ ^(build|render|run)$ ]] || need image
if [[ $subcommand == run ]]; then subcommand=with_${flag[with]}; fi
"$subcommand"
