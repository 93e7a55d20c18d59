"""The environment that the scripts make, its path and its allocator."""

import subprocess
import sys

import pytest

TCMALLOC = "usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4"
PACKAGES = ".venv/lib/python3.12/site-packages"


@pytest.fixture
def new_machine(machine):
  """Its python3 makes environments, and dpkg-deb unpacks an empty library."""
  python = ".venv/bin/python"
  machine.play(
    "python3 -m venv .venv",
    f"mkdir -p .venv/bin {PACKAGES}; touch {python}; chmod +x {python}",
  )
  machine.play("dpkg-deb -x", f"install -D /dev/null {TCMALLOC}")
  return machine


def source(machine):
  """LD_PRELOAD after sourcing environment.sh."""
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


def test_a_new_environment_gets_tcmalloc_once(new_machine):
  new_machine.play("apt-get download", "touch tcmalloc.deb")
  library = str(new_machine.checkout / ".venv/tcmalloc" / TCMALLOC)
  assert source(new_machine) == library
  assert source(new_machine) == library
  assert downloads(new_machine) == ["libtcmalloc-minimal4"]


def test_ubuntu_calls_it_otherwise(new_machine):
  new_machine.play("apt-get download", "exit 100", "touch tcmalloc.deb")
  assert ".venv/tcmalloc" in source(new_machine)
  assert downloads(new_machine) == [
    "libtcmalloc-minimal4",
    "libtcmalloc-minimal4t64",
  ]


def test_it_goes_on_without(new_machine):
  new_machine.play("apt-get download", "exit 100")
  assert ".venv/tcmalloc" not in source(new_machine)
  assert len(downloads(new_machine)) == 2


def test_the_package_is_imported_from_any_folder(new_machine, tmp_path):
  """Python reads the .pth file of a new environment."""
  package = new_machine.checkout / "ccl_jax"
  package.mkdir()
  (package / "__init__.py").write_text("")
  source(new_machine)
  program = (
    f"import site; site.addsitedir({str(new_machine.checkout / PACKAGES)!r});"
    "import ccl_jax; print(ccl_jax.__file__)"
  )
  done = subprocess.run(
    [sys.executable, "-I", "-S", "-c", program],
    cwd=tmp_path, capture_output=True, text=True, timeout=20, check=True,
  )  # fmt: skip
  assert done.stdout.strip() == str(package / "__init__.py")
