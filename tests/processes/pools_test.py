"""Processes of a pool end with the one that started them."""

import os
import signal
import sys
import time

import pytest

from ccl_jax.processes import pools
from tests import commands
from tests.data import clips

PROGRAM = """
import os, time
from ccl_jax.processes import pools

if __name__ == "__main__":
  with pools.Pool(2) as pool:
    ids = {pool.submit(os.getpid).result() for _ in range(20)}
    pool.submit(time.sleep, 600)  # one is busy, the other waits
    print(*ids, flush=True)
    time.sleep(600)
"""


def is_alive(pid):
  """Whether a process runs; one that has ended may wait to be collected."""
  try:
    with open(f"/proc/{pid}/stat") as file:
      return file.read().rpartition(")")[2].split()[0] != "Z"
  except OSError:
    return False


def wait_until(condition, seconds=60):
  end = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < end
    time.sleep(0.05)


def test_a_pool_computes_in_processes_of_its_own():
  with pools.Pool(1) as pool:
    assert pool.submit(os.getpid).result() != os.getpid()


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM])
def test_a_pool_ends_with_a_process_that_is_killed(tmp_path, kind):
  (tmp_path / "program.py").write_text(PROGRAM)
  path = os.pathsep.join([str(commands.ROOT), os.environ.get("PYTHONPATH", "")])
  process = commands.start(
    sys.executable, tmp_path / "program.py", PYTHONPATH=path
  )
  workers = process.stdout.readline().split()
  assert workers and all(map(is_alive, workers))
  os.kill(process.pid, kind)
  process.communicate(timeout=60)  # its pipes are closed by all
  wait_until(lambda: not any(map(is_alive, workers)))


def children(pid):
  """The processes that a process, by any of its threads, has started."""
  found = []
  for thread in os.listdir(f"/proc/{pid}/task"):
    with open(f"/proc/{pid}/task/{thread}/children") as file:
      found += file.read().split()
  return found


def test_nothing_stays_of_an_encode_that_is_killed(tmp_path):
  (tmp_path / "clips").mkdir()
  clips.write_clips(tmp_path / "clips", 3)
  process = commands.start(
    sys.executable, "-m", "ccl_jax.encode", f"--input={tmp_path / 'clips'}",
    f"--output={tmp_path / 'data'}", "--config=configs/ccl.py:size=tiny",
    f"--config.encode.frames={clips.FRAMES}", "--config.encode.num_workers=2",
  )  # fmt: skip
  wait_until(lambda: len(children(process.pid)) >= 3)  # and Python's tracker
  workers = children(process.pid)
  os.kill(process.pid, signal.SIGKILL)
  process.communicate(timeout=60)
  wait_until(lambda: not any(map(is_alive, workers)))


@pytest.mark.parametrize(
  ("kind", "status", "words"),
  [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "")],
)
def test_a_signal_to_a_group_ends_a_command_and_leaves_nothing(
  tmp_path, kind, status, words
):
  """As a terminal and Slurm send it, while some processes only begin."""
  process = commands.start(
    sys.executable, "-m", "ccl_jax.world", f"--output={tmp_path / 'world'}",
    "--num_train=500", "--size=16",
  )  # fmt: skip
  wait_until(lambda: len(children(process.pid)) >= 2)  # and Python's tracker
  workers = children(process.pid)
  os.killpg(process.pid, kind)
  code, text = commands.finish(process)
  assert code == status and "Traceback" not in text, text
  assert "Error" not in text and words in text, text
  wait_until(lambda: not any(map(is_alive, workers)))
  assert not list(tmp_path.iterdir())
