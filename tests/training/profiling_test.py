"""Traces of some steps of a run."""

import socket

import jax
import jax.numpy as jnp
import pytest
from etils import epath

from ccl_jax.training.profiling import Profiler
from tests import bucket
from tests.commands import free_port
from tests.training import clocks


def traces(folder):
  return list(epath.Path(folder).glob("plugins/profile/*/*.xplane.pb"))


def run(profiler, folder, start, end):
  """Tiny steps; whether a trace is there after each."""
  take_step, found = jax.jit(lambda x: 2 * x), []
  with profiler:
    for i in range(start, end):
      with profiler.step(i):
        take_step(jnp.ones(3)).block_until_ready()
      found.append(bool(traces(folder)))
  return found


def make(folder, window, num_steps=5, is_lead=True, port=0):
  return Profiler(folder, window, num_steps, clocks.make()[0], is_lead, port)


def listens(port):
  with socket.socket() as client:
    return client.connect_ex(("localhost", port)) == 0


def test_the_lead_gives_traces_to_who_asks(tmp_path):
  port = free_port()
  for is_lead in (True, False):
    with make(tmp_path, (), is_lead=is_lead, port=port):
      assert listens(port) == is_lead
    assert not listens(port)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_there_is_not_is_an_error(tmp_path, port):
  with pytest.raises(ValueError, match="expected 1 to 65535"):
    make(tmp_path, (), port=port)


def test_the_steps_of_the_window_are_traced(tmp_path):
  profiler = make(tmp_path / "profile", (1, 3))
  assert run(profiler, tmp_path / "profile", 0, 5) == [
    False,
    False,
    True,
    True,
    True,
  ]
  (path,) = traces(tmp_path / "profile")
  assert b"train" in path.read_bytes()  # the steps' own mark
  assert [profiler.is_last(i) for i in range(4)] == [False, False, True, False]


def test_a_run_that_ends_within_the_window_keeps_its_trace():
  folder = bucket.make() / "profile"
  profiler = make(folder, [1, 5])
  with pytest.raises(RuntimeError, match="the step failed"), profiler:
    for i in range(2):
      with profiler.step(i):
        if i == 1:
          raise RuntimeError("the step failed")
  assert len(traces(folder)) == 1
  with pytest.raises(RuntimeError, match="No profile"):
    jax.profiler.stop_trace()


@pytest.mark.parametrize(
  ("window", "start", "is_lead"),
  [((), 0, True), ((0, 2), 2, True), ((0, 2), 0, False)],
)
def test_no_trace(tmp_path, window, start, is_lead):
  """None asked for, made before the run was resumed, or another's to make."""
  folder = tmp_path / "profile"
  profiler = make(folder, window, 5, is_lead)
  assert not any(run(profiler, folder, start, 4))
  assert not folder.exists()


@pytest.mark.parametrize("window", [(3, 6), (2, 2), (-1, 2), (1,), (1, 2, 3)])
def test_a_window_that_is_not_in_the_run_is_an_error(tmp_path, window):
  with pytest.raises(ValueError, match=r"config\.log\.profile_steps=.*5 steps"):
    make(tmp_path, window)
