"""Processes of one run on several hosts: start, barriers, broadcasts and end.

Each host of a pod runs the same command. If a process dies, the others end
within `CCL_PEER_TIMEOUT` seconds (an environment variable, default 100): JAX's
coordinator misses its heartbeat and ends them with an error, or a collective
fails at once because the connection is gone. No process waits forever.
"""

import os
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

_POLL_SECONDS = 1.0


class ShardOptions(NamedTuple):
  """This process's share of a list of work, with the field names of grain.

  Attributes:
    shard_index: index of this process.
    shard_count: number of processes.
  """

  shard_index: int = 0
  shard_count: int = 1

  @property
  def is_lead(self) -> bool:
    """Returns whether this process does the work that is done only once."""
    return self.shard_index == 0


SINGLE_PROCESS = ShardOptions()


def initialize(spec: str) -> ShardOptions:
  """Connects this process to the others; call it before using any device.

  Args:
    spec: "off" for a single process; "auto" on a cluster that JAX knows (Cloud
      TPU, GKE, Slurm, Open MPI); or "HOST:PORT,N,I": process I of N, with the
      coordinator, process 0, at HOST:PORT.

  Returns:
    The index of this process and the number of processes.

  Raises:
    ValueError: another `spec`, or "auto" without such a cluster.
  """
  if spec == "off":
    return SINGLE_PROCESS
  arguments = {} if spec == "auto" else _parse(spec)
  seconds = _peer_timeout()
  try:
    jax.distributed.initialize(
      **arguments,
      initialization_timeout=3 * seconds,
      heartbeat_timeout_seconds=seconds,
      shutdown_timeout_seconds=seconds,
    )
  except ValueError as error:
    raise ValueError(
      f"--distributed={spec}: JAX found no cluster here ({error}). Use"
      ' "off" on one machine, else name the coordinator: "HOST:PORT,N,I".'
    ) from error
  return ShardOptions(jax.process_index(), jax.process_count())


def is_lead() -> bool:
  """Returns whether this process writes the files of the entire run."""
  return jax.process_index() == 0


def barrier(name: str) -> None:
  """Waits until every process has called this with the same name."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def wait_until(is_done: Callable[[], bool]) -> None:
  """Waits until `is_done()` is true through the work of another process.

  A barrier is a collective, which has a timeout; this may take hours. If a
  process dies, JAX ends the others.
  """
  while not is_done():
    time.sleep(_POLL_SECONDS)


def all_agree(is_true: bool) -> bool:
  """Returns whether it is true in all processes; all must call this."""
  if jax.process_count() == 1:
    return is_true
  return bool(multihost_utils.process_allgather(np.asarray(is_true)).all())


def broadcast_ints(values: Sequence[int]) -> tuple[int, ...]:
  """Returns the integers of process 0; all processes must call this."""
  if jax.process_count() == 1:
    return tuple(values)
  shared = multihost_utils.broadcast_one_to_all(np.asarray(values, np.int32))
  return tuple(shared.tolist())


def broadcast_floats(values: Sequence[float]) -> tuple[float, ...]:
  """Returns the floats of process 0, bit by bit; all must call this."""
  halves = np.asarray(values, np.float64).view(np.int32)
  shared = np.asarray(broadcast_ints(halves.tolist()), np.int32)
  return tuple(shared.view(np.float64).tolist())


def shutdown() -> None:
  """Disconnects this process; does nothing if it is not connected."""
  if jax.distributed.is_initialized():
    jax.distributed.shutdown()


def _parse(spec: str) -> dict[str, str | int]:
  try:
    address, count, index = spec.split(",")
    arguments = {
      "coordinator_address": address,
      "num_processes": int(count),
      "process_id": int(index),
    }
    host, port = address.rsplit(":", 1)
    is_good = host and int(port) > 0 and 0 <= int(index) < int(count)
  except ValueError:
    is_good = False
  if not is_good:
    raise ValueError(
      f'--distributed={spec}: expected "off", "auto" or "HOST:PORT,N,I", as'
      ' "10.0.0.1:8476,4,0" for the first of four processes.'
    )
  return arguments


def _peer_timeout() -> int:
  text = os.environ.get("CCL_PEER_TIMEOUT", "100")
  if not text.isdigit() or int(text) < 1:
    raise ValueError(f"CCL_PEER_TIMEOUT={text}: expected seconds, 1 or more.")
  return int(text)
