#!/usr/bin/env bash
# Trains on the GPUs of a Slurm cluster, one process per GPU (so JAX finds its
# neighbours and its device). Before a preemption or the end of its time the job
# saves and queues itself again; it resumes from the checkpoints in its workdir.
#   bash launch/slurm.sh --nodes=8 [FLAGS] \
#     -- --config=configs/ccl.py:size=14b,stage=joint --workdir=... \
#     --config.data.path=...
# Flags:
#   --nodes=1            nodes
#   --gpus=8             GPUs, and processes, per node
#   --cpus=8             CPU cores per process
#   --time=24:00:00      time limit of one turn
#   --notice=120         seconds before its end in which the job saves
#   --partition=NAME     by default the cluster's own
#   --name=ccl_jax       name of the job
#   --max-restarts=100   how often it queues itself again
#   --extra=FLAG         one more flag for sbatch (may repeat)
#   --dry-run            print the command, run none
# The checkout and the workdir are on a file system that all nodes share (or the
# workdir is gs://...), and .venv has "jax[cuda13]". Output goes to runs/slurm.
# For a notice of preemptions the cluster sets PreemptParameters with
# send_user_signal; without it Slurm's own SIGTERM does, within its GraceTime.
source "$(dirname "${BASH_SOURCE[0]}")/options.sh"
declare -A flag=(
  [nodes]=1 [gpus]=8 [cpus]=8 [time]=24:00:00 [notice]=120 [partition]=""
  [name]=ccl_jax [max-restarts]=100 [extra]="" [dry-run]=no
)

submit() {
  local options=(
    --job-name="${flag[name]}" --chdir="$PWD" --nodes="${flag[nodes]}"
    --ntasks-per-node="${flag[gpus]}" --gpus-per-node="${flag[gpus]}"
    --cpus-per-task="${flag[cpus]}" --time="${flag[time]}"
    --requeue --open-mode=append --output="runs/slurm/${flag[name]}-%j.log"
    # B: only the batch shell is told; it then tells srun.
    --signal="B:TERM@${flag[notice]}"
  )
  [[ -z ${flag[partition]} ]] || options+=(--partition="${flag[partition]}")
  # Slurm runs a copy of a script, which would not find its neighbours; --wrap
  # calls the script itself.
  run mkdir -p runs/slurm
  run sbatch "${options[@]}" "${extra[@]}" --wrap="exec $(
    quoted bash launch/slurm.sh job "${flag[max-restarts]}" "${training[@]}"
  )"
}

# What the job does on its first node.
job() {
  local max_restarts=$1 code=0
  shift
  # Every process sees all GPUs of its node, and JAX takes that of the local
  # rank. Without GPUs it fails, and does not go on on the CPU.
  export JAX_PLATFORMS=${JAX_PLATFORMS:-cuda,cpu}
  supervise srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=1 \
    bash launch/host.sh train "$@" || code=$?
  ((code == 143)) || return "$code"
  ((${SLURM_RESTART_COUNT:-0} < max_restarts)) ||
    fail "stopped; giving up after $max_restarts restarts"
  say "stopped and saved; queues again"
  # Incomplete: not if it was stopped by scancel.
  scontrol requeue Incomplete "$SLURM_JOB_ID"
}

if [[ ${1:-} == job ]]; then
  shift
  job "$@"
else
  parse_flags "$@"
  need_positive nodes gpus cpus notice
  need_number max-restarts
  need_workdir ""
  submit
fi
