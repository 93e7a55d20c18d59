"""Its arguments; tests/faults_test.py has what its processes do together."""

import pathlib
import subprocess

import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "launch" / "local_pod.sh"


def call(*arguments):
  done = subprocess.run(
    ["bash", SCRIPT, *arguments], capture_output=True, text=True
  )
  return done.returncode, done.stdout, done.stderr


def test_help_says_what_it_does():
  code, text, _ = call("--help")
  assert code == 0
  for word in ("N", "--devices", "--grace", "--dry-run", "CCL_PEER_TIMEOUT"):
    assert word in text


def test_a_dry_run_prints_every_process_with_the_same_coordinator():
  flags = ("--config=a.py:size=tiny", "--workdir=a b")
  code, text, error = call("3", "--devices=2", "--dry-run", "--", *flags)
  assert code == 0, error
  lines = text.splitlines()
  assert len(lines) == 3
  addresses = set()
  for i, line in enumerate(lines):
    assert "--xla_force_host_platform_device_count=2" in line
    assert line.endswith("--config=a.py:size=tiny '--workdir=a b'")
    spec = line.split("--distributed=")[1].split()[0].split(",")
    assert spec[1:] == ["3", str(i)]
    addresses.add(spec[0])
  assert len(addresses) == 1


def test_a_dry_run_makes_nothing(machine):
  before = sorted(machine.checkout.rglob("*"))
  done = machine.run("local_pod.sh", "2", "--dry-run", "--", "--workdir=x")
  assert done.returncode == 0, done.stderr
  assert sorted(machine.checkout.rglob("*")) == before
  assert not machine.calls


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    ((), "number of processes"),
    (("0", "--", "--workdir=x"), "number of processes"),
    (("2",), "after --"),
    (("2", "--devices=two", "--", "x"), "integer"),
    (("2", "--device=2", "--", "x"), "unknown flag --device"),
  ],
)
def test_wrong_arguments_are_clear_errors(arguments, words):
  code, text, error = call(*arguments)
  assert code == 2 and words in error and not text


def test_when_processes_fail_so_does_the_script():
  code, text, error = call("2", "--", "--nonsense=1")
  assert code == 2  # what no launcher starts again
  assert "[0] error:" in text and "[1] error:" in text
  assert "process 0 ended with code" in error
