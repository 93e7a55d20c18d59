"""The environment that the scripts make, and the heap that they load."""

import subprocess

import pytest

HEAP = "usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4"


@pytest.fixture
def new_machine(machine):
  """Its python3 makes environments; its dpkg-deb unpacks an (empty) heap."""
  python = ".venv/bin/python"
  machine.play(
    "python3 -m venv .venv",
    f"mkdir -p .venv/bin; touch {python}; chmod +x {python}",
  )
  machine.play("dpkg-deb -x", f"install -D /dev/null {HEAP}")
  return machine


def source(machine):
  """What LD_PRELOAD is after sourcing environment.sh."""
  return subprocess.run(
    ["bash", "-c", "source launch/environment.sh; echo ${LD_PRELOAD-none}"],
    env=machine.environment,
    cwd=machine.checkout,
    capture_output=True,
    text=True,
    timeout=20,
    check=True,
  ).stdout.strip()


def downloads(machine):
  return [call[2] for call in machine.calls if call[0] == "apt-get"]


def test_a_new_environment_gets_a_heap_once(new_machine):
  new_machine.play("apt-get download", "touch heap.deb")
  heap = str(new_machine.checkout / ".venv/tcmalloc" / HEAP)
  assert source(new_machine) == heap
  assert source(new_machine) == heap
  assert downloads(new_machine) == ["libtcmalloc-minimal4"]


def test_ubuntu_calls_it_otherwise(new_machine):
  new_machine.play("apt-get download", "exit 100", "touch heap.deb")
  assert ".venv/tcmalloc" in source(new_machine)
  assert downloads(new_machine) == [
    "libtcmalloc-minimal4",
    "libtcmalloc-minimal4t64",
  ]


def test_it_goes_on_without(new_machine):
  new_machine.play("apt-get download", "exit 100")
  assert ".venv/tcmalloc" not in source(new_machine)
  assert len(downloads(new_machine)) == 2
