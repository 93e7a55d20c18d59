"""What happens to the others when one dies is in tests/faults_test.py."""

import os
import pathlib
import socket
import subprocess
import sys

import jax
import pytest

from ccl_jax import distributed

ROOT = pathlib.Path(__file__).parents[1]


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
from ccl_jax import distributed
distributed.initialize(sys.argv[1])
index = jax.process_index()
distributed.barrier("here")
print(
  jax.process_count(), len(jax.devices()),
  distributed.is_lead() == (index == 0),
  distributed.all_agree(True), distributed.all_agree(index == 0),
)
distributed.shutdown()
"""


def free_port():
  with socket.socket() as taken:
    taken.bind(("127.0.0.1", 0))
    return taken.getsockname()[1]


def test_two_processes_wait_and_agree():
  port = free_port()
  environment = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    "CCL_PEER_TIMEOUT": "20",
  }
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", PROGRAM, f"127.0.0.1:{port},2,{i}"],
      cwd=ROOT, env=environment, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )
    for i in range(2)
  ]  # fmt: skip
  for process in processes:
    text, _ = process.communicate(timeout=100)
    assert process.returncode == 0, text
    assert "2 4 True True False" in text.splitlines()
