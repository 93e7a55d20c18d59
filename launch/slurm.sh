#!/usr/bin/env bash
# Trains on the GPUs of a Slurm cluster, with one process per GPU, as JAX expects.
# Before a preemption or the end of its time limit the job saves and requeues
# itself; then it resumes from the checkpoints in its workdir.
#   bash launch/slurm.sh --nodes=8 [FLAGS] \
#     -- --config=configs/ccl.py:size=14b,stage=joint --workdir=... \
#     --config.data.path=...
# Flags:
#   --nodes=1            nodes
#   --gpus=8             GPUs, and processes, per node
#   --cpus=8             CPU cores per process
#   --time=24:00:00      time limit until the job is requeued
#   --notice=300         seconds before that limit at which the job saves
#   --partition=NAME     the cluster's default if not set
#   --name=ccl_jax       name of the job
#   --max-restarts=100   how often the job requeues itself
#   --extra=FLAG         one more flag for sbatch (repeatable)
#   --dry-run            print the command, run none
# The checkout and the workdir are on a file system that all nodes share (or the
# workdir is gs://...), and .venv has "jax[cuda13]". Output goes to runs/slurm.
# XLA_CLIENT_MEM_FRACTION is the share of a card's memory that JAX takes, 0.92 if
# not set: NCCL, cuDNN and the driver need the rest.
# Preemptions are announced if the cluster's PreemptParameters have
# send_user_signal; else Slurm's SIGTERM must suffice, within its GraceTime.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
declare -A flag=(
  [nodes]=1 [gpus]=8 [cpus]=8 [time]=24:00:00 [notice]=300 [partition]=""
  [name]=ccl_jax [max-restarts]=100 [extra]="" [dry-run]=no
)

submit() {
  local options=(
    --job-name="${flag[name]}" --chdir="$PWD" --nodes="${flag[nodes]}"
    --ntasks-per-node="${flag[gpus]}" --gpus-per-node="${flag[gpus]}"
    --cpus-per-task="${flag[cpus]}" --time="${flag[time]}"
    --requeue --open-mode=append --output="runs/slurm/${flag[name]}-%j.log"
    # B: only the batch shell gets the signal; it passes it on to srun.
    --signal="B:TERM@${flag[notice]}"
  )
  [[ -z ${flag[partition]} ]] || options+=(--partition="${flag[partition]}")
  # Slurm runs a copy of a script, which would not find lib.sh; --wrap runs the
  # script itself.
  run mkdir -p runs/slurm
  run sbatch "${options[@]}" "${extra[@]}" --wrap="exec $(
    quoted bash launch/slurm.sh job "${flag[max-restarts]}" "${training[@]}"
  )"
}

# Runs the job, on its first node.
job() {
  local max_restarts=$1 code=0
  shift
  # Every process sees all GPUs of its node, and JAX takes that of the local
  # rank. Without GPUs it fails instead of training on the CPU.
  export JAX_PLATFORMS=${JAX_PLATFORMS:-cuda,cpu}
  # JAX takes 75 % of a card's memory if nothing else is said (the second name is
  # the old one, and both together are an error).
  [[ -n ${XLA_PYTHON_CLIENT_MEM_FRACTION:-} ]] ||
    export XLA_CLIENT_MEM_FRACTION=${XLA_CLIENT_MEM_FRACTION:-.92}
  supervise srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=1 \
    bash launch/worker.sh train "$@" || code=$?
  ((code == 143)) || return "$code"
  ((${SLURM_RESTART_COUNT:-0} < max_restarts)) ||
    fail "stopped; giving up after $max_restarts restarts"
  say "stopped and saved; requeueing"
  # Incomplete: not if scancel has stopped it.
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
