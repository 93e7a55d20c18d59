"""What is asked of sbatch, and what the job does when it is stopped."""

import shlex
import signal
import subprocess
import time

import pytest

from tests.launch.stubs import values

TRAINING = (
  "--config=configs/ccl.py:size=14b,stage=joint",
  "--workdir=/shared/joint",
  """--note=it's "a" $HOME * b""",
)
SLURM = {"SLURM_JOB_ID": "12", "SLURM_CPUS_PER_TASK": "8"}


def test_sbatch(machine):
  done = machine.run(
    "slurm.sh", "--nodes=4", "--gpus=2", "--partition=a", "--time=1:00:00",
    "--max-restarts=3", "--extra=--account=b", "--extra=--mem=0", "--",
    *TRAINING,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  (call,) = machine.calls
  expected = {
    "nodes": "4", "ntasks-per-node": "2", "gpus-per-node": "2",
    "partition": "a", "time": "1:00:00", "account": "b", "mem": "0",
    "signal": "B:TERM@300", "open-mode": "append",
    "chdir": str(machine.checkout),
  }  # fmt: skip
  assert {name: values(call, name) for name in expected} == {
    name: [value] for name, value in expected.items()
  }
  assert "--requeue" in call
  (job,) = values(call, "wrap")
  expected = ["exec", "bash", "launch/slurm.sh", "job", "3", *TRAINING]
  assert shlex.split(job) == expected
  assert (machine.checkout / "runs" / "slurm").is_dir()


def test_dry_run(machine):
  done = machine.run("slurm.sh", "--dry-run", "--", *TRAINING)
  assert done.returncode == 0, done.stderr
  assert "sbatch --job-name=ccl_jax" in done.stdout
  assert not machine.calls
  assert not (machine.checkout / "runs").exists()


def job(machine, **environment):
  return machine.run("slurm.sh", "job", "3", *TRAINING, **(SLURM | environment))


@pytest.mark.parametrize(
  "given, expected",
  [
    ({}, "cuda,cpu .92"),
    ({"XLA_CLIENT_MEM_FRACTION": ".5"}, "cuda,cpu .5"),
    ({"XLA_PYTHON_CLIENT_MEM_FRACTION": ".5"}, "cuda,cpu"),
  ],
)
def test_job_takes_most_of_a_cards_memory(machine, given, expected):
  machine.play("srun", "echo $JAX_PLATFORMS $XLA_CLIENT_MEM_FRACTION")
  assert expected in job(machine, **given).stdout.splitlines()


@pytest.mark.parametrize("code", [0, 1])
def test_job_ends_as_the_training_does(machine, code):
  machine.play("srun", f"exit {code}")
  assert job(machine).returncode == code
  (call,) = machine.calls
  assert call == [
    "srun", "--cpus-per-task=8", "--kill-on-bad-exit=1",
    "bash", "launch/worker.sh", "train", *TRAINING,
  ]  # fmt: skip


def test_job_that_was_stopped_queues_again(machine):
  machine.play("srun", "exit 143")
  assert job(machine, SLURM_RESTART_COUNT="2").returncode == 0
  assert machine.calls[1] == ["scontrol", "requeue", "Incomplete", "12"]


def test_requeues_are_bounded(machine):
  machine.play("srun", "exit 143")
  done = job(machine, SLURM_RESTART_COUNT="3")
  assert done.returncode == 2
  assert "giving up after 3 restarts" in done.stderr
  assert len(machine.calls) == 1


def test_notice_reaches_srun_and_waits_for_it(machine):
  machine.play(
    "srun",
    """trap 'sleep 0.2; echo >"$stubs/saved"; exit 0' TERM
    echo >"$stubs/ready"
    while :; do sleep 0.05; done""",
  )
  command = machine.command("slurm.sh", "job", "3", *TRAINING, **SLURM)
  with subprocess.Popen(**command) as process:
    while not (machine.stubs / "ready").exists():
      time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 0
  assert (machine.stubs / "saved").exists()
  assert machine.calls[1] == ["scontrol", "requeue", "Incomplete", "12"]
