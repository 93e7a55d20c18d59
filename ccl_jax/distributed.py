"""Many processes as one program: how they find each other, wait and end.

Each host of a pod runs the same command. A process that dies takes the others
with it within `CCL_PEER_TIMEOUT` seconds (an environment variable, default
100): JAX's coordinator misses its heartbeat and ends them with an error, or a
collective fails at once because the connection is gone. Nobody waits forever.
"""

import os
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

_POLL_SECONDS = 1.0


class ShardOptions(NamedTuple):
  """This process's shard of a list of work, in grain's words.

  Attributes:
    shard_index: of this process, from 0.
    shard_count: number of processes.
  """

  shard_index: int = 0
  shard_count: int = 1

  @property
  def is_lead(self) -> bool:
    """Whether this process does what is done once."""
    return self.shard_index == 0

  def wait(self, is_done: Callable[[], bool]) -> None:
    """Returns once `is_done()`, which another process brings about.

    Not a barrier, which is a collective: those have timeouts, and here one may
    wait for hours. When a process dies, JAX ends the others.
    """
    while not is_done():
      time.sleep(_POLL_SECONDS)


ALONE = ShardOptions()


def initialize(spec: str) -> ShardOptions:
  """Joins the other processes; before anything else that uses devices.

  Args:
    spec: "off", for one process; "auto", where JAX knows the cluster (Cloud
      TPU, GKE, Slurm, Open MPI); or "HOST:PORT,N,I": process I of N, with the
      coordinator, process 0, at HOST:PORT.

  Returns:
    Which of the processes this is.

  Raises:
    ValueError: another `spec`, or "auto" where there is no such cluster.
  """
  if spec == "off":
    return ALONE
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
      f"distributed={spec}: JAX found no cluster here ({error}). On one machine"
      ' use "off"; else name the coordinator: "HOST:PORT,N,I".'
    ) from error
  return ShardOptions(jax.process_index(), jax.process_count())


def is_lead() -> bool:
  """Whether this is the process that writes what is written once."""
  return jax.process_index() == 0


def barrier(name: str) -> None:
  """Returns when every process has called this with the same name."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def all_agree(is_true: bool) -> bool:
  """Whether it is true in every process; all of them must call this."""
  if jax.process_count() == 1:
    return is_true
  return bool(multihost_utils.process_allgather(np.asarray(is_true)).all())


def shutdown() -> None:
  """Leaves the others, who may go on; nothing if there are none."""
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
      f'distributed={spec}: expected "off", "auto" or "HOST:PORT,N,I", such as'
      ' "10.0.0.1:8476,4,0" for the first of four processes.'
    )
  return arguments


def _peer_timeout() -> int:
  text = os.environ.get("CCL_PEER_TIMEOUT", "100")
  if not text.isdigit() or int(text) < 1:
    raise ValueError(f"CCL_PEER_TIMEOUT={text}: expected seconds, 1 or more.")
  return int(text)
