"""Starting and meeting of processes; tests/faults_test.py has their deaths."""

import jax
import pytest

from ccl_jax.processes import distributed
from tests import commands


def called_with(monkeypatch, spec):
  got = []
  monkeypatch.setattr(jax.distributed, "initialize", lambda **k: got.append(k))
  distributed.initialize(spec)
  return got


def test_off_is_one_process(monkeypatch):
  assert not called_with(monkeypatch, "off")
  assert distributed.is_lead()
  assert distributed.all_agree(True) and not distributed.all_agree(False)
  distributed.barrier("alone")
  distributed.shutdown()


def test_a_process_is_named_or_found(monkeypatch):
  monkeypatch.setenv("CCL_PEER_TIMEOUT", "7")
  (explicit,) = called_with(monkeypatch, "[::1]:8476,4,3")
  assert explicit["coordinator_address"] == "[::1]:8476"
  assert (explicit["num_processes"], explicit["process_id"]) == (4, 3)
  assert explicit["heartbeat_timeout_seconds"] == 7
  (found,) = called_with(monkeypatch, "auto")
  assert "coordinator_address" not in found


@pytest.mark.parametrize(
  "spec",
  ["on", "", "host:1,2", "host,2,0", "host:1,2,2", "host:x,2,0", ":1,2,0"],
)
def test_another_spec_is_an_error(spec):
  with pytest.raises(ValueError, match="HOST:PORT,N,I"):
    distributed.initialize(spec)


def test_auto_where_there_is_no_cluster_is_a_clear_error(monkeypatch):
  def nothing(**_):
    raise ValueError("coordinator_address should be defined.")

  monkeypatch.setattr(jax.distributed, "initialize", nothing)
  with pytest.raises(ValueError, match=r"no cluster here.*HOST:PORT,N,I"):
    distributed.initialize("auto")


@pytest.mark.parametrize("seconds", ["0", "soon", "-1"])
def test_the_timeout_is_in_seconds(monkeypatch, seconds):
  monkeypatch.setenv("CCL_PEER_TIMEOUT", seconds)
  with pytest.raises(ValueError, match="CCL_PEER_TIMEOUT"):
    called_with(monkeypatch, "auto")


PROGRAM = """
import sys
import jax
from ccl_jax.processes import distributed
distributed.initialize(sys.argv[1].split("=")[1])
index = jax.process_index()
distributed.barrier("here")
print(
  jax.process_count(), len(jax.devices()),
  distributed.is_lead() == (index == 0),
  distributed.all_agree(True), distributed.all_agree(index == 0),
  distributed.broadcast_floats([0.1 + index, -1e-300, float("inf")]),
)
distributed.shutdown()
"""


def test_two_processes_wait_and_agree():
  for process in commands.start_two("-c", PROGRAM, devices=2):
    status, text = commands.finish(process)
    assert status == 0, text
    assert "2 4 True True False (0.1, -1e-300, inf)" in text.splitlines()
