"""Flags of all launchers, test.sh, and pinned requirements."""

import pathlib
import re
import subprocess
import sys

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.launch.stubs import LAUNCH

LAUNCHERS = ("tpu_vm.sh", "gke.sh", "slurm.sh")


def test_shellcheck():
  tool = pathlib.Path(sys.executable).with_name("shellcheck")
  scripts = sorted(str(path) for path in LAUNCH.glob("*.sh"))
  options = ["--shell=bash", "--external-sources", "--source-path=SCRIPTDIR"]
  options += [f"--source-path={LAUNCH.parent}"]
  done = subprocess.run(
    [tool, *options, *scripts], capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
  "script",
  (
    *LAUNCHERS,
    "worker.sh",
    "test.sh",
    "demo.sh",
    "demo_icac.sh",
    "demo_avdit.sh",
    "demo_lora.sh",
  ),
)
def test_help(machine, script):
  done = machine.run(script, "--help")
  assert done.returncode == 0
  assert f"bash launch/{script}" in done.stdout
  assert not machine.calls


@pytest.mark.parametrize("script", LAUNCHERS)
@pytest.mark.parametrize(
  ("argument", "message"),
  [
    ("--zoone=x", "unknown flag --zoone; see --help"),
    ("--name", "--name needs a value: --name=VALUE"),
    ("--name=", "--name needs a value: --name=VALUE"),
    ("--dry-run=no", "--dry-run takes no value"),
    ("--max-restarts=many", "--max-restarts=many: expected an integer"),
    ("name", "unexpected argument 'name'; see --help"),
  ],
)
def test_wrong_flags(machine, script, argument, message):
  known = {
    "tpu_vm.sh": ["run", "--name=n", "--zone=z"],
    "gke.sh": ["run", "--name=n", "--image=i"],
    "slurm.sh": [],
  }[script]
  done = machine.run(script, *known, argument)
  assert done.returncode == 2
  assert f"{script}: error: {message}" in done.stderr
  assert done.stderr.count("\n") == 1
  assert not machine.calls


@pytest.mark.parametrize("script", LAUNCHERS)
def test_workdir_is_needed(machine, script):
  known = {
    "tpu_vm.sh": ["run", "--name=n", "--zone=z"],
    "gke.sh": ["run", "--name=n", "--image=i"],
    "slurm.sh": [],
  }[script]
  done = machine.run(script, *known, "--", "--config=c", "--workdir=")
  assert done.returncode == 2
  assert "--workdir=" in done.stderr
  assert not machine.calls


@pytest.mark.parametrize(
  "command",
  [
    ("tpu_vm.sh", "up", "--name=n", "--zone=z", "--type=v5p-8"),
    ("tpu_vm.sh", "watch", "--name=n", "--zone=z", "--type=v5p-8"),
    ("gke.sh", "build", "--image=i"),
    ("gke.sh", "run", "--name=n", "--image=i"),
    ("slurm.sh",),
  ],
)
def test_a_dry_run_makes_nothing(machine, command):
  before = sorted(machine.checkout.rglob("*"))
  done = machine.run(*command, "--dry-run", "--", "--workdir=gs://b/run")
  assert done.returncode == 0 and done.stdout, done.stderr
  assert sorted(machine.checkout.rglob("*")) == before
  assert not machine.calls


@pytest.mark.parametrize(
  ("flags", "expected"),
  [
    (["--fast", "tests/x"], ["-m", "fast", "tests/x"]),
    (["-x"], ["-x"]),
  ],
)
def test_the_tests_run_after_format_and_lint(machine, flags, expected):
  make = 'mkdir -p .venv/bin; cp "$stubs/bin/python" .venv/bin/'
  machine.play("python3 -m venv .venv", make)
  done = machine.run("test.sh", *flags)
  assert done.returncode == 0, done.stderr
  *_, form, lint, tests = machine.calls
  assert form[:2] == ["ruff", "format"] and lint[:2] == ["ruff", "check"]
  words = ["python", "-m", "pytest", "-n", "2", "--dist", "worksteal"]
  assert tests == [*words, *expected]


def test_a_failed_lint_ends_the_tests(machine):
  machine.play("ruff check", "exit 1")
  assert machine.run("test.sh").returncode == 1
  assert machine.calls[-1][:2] == ["ruff", "check"]


def pins():
  """Name -> version of launch/requirements.txt."""
  found = {}
  for line in (LAUNCH / "requirements.txt").read_text().splitlines():
    if not line.startswith("#"):
      match = re.fullmatch(r"([\w.-]+)(?:\[tpu\])?==([\w.]+)", line)
      assert match, line
      found[canonicalize_name(match[1])] = match[2]
  return found


def test_requirements_are_pinned():
  pinned = pins()
  for line in (LAUNCH.parent / "requirements.txt").read_text().splitlines():
    line = line.partition("#")[0].strip()
    if line:
      wanted = Requirement(line)
      version = pinned[canonicalize_name(wanted.name)]
      assert wanted.specifier.contains(version), (line, version)
  assert {"libtpu", "gcsfs"} <= set(pinned)
  # TPU hosts compile with the same libtpu as the budgets of the tests.
  tests = (LAUNCH.parent / "tests" / "requirements.txt").read_text()
  assert f"libtpu=={pinned['libtpu']} " in tests
  assert not {"torch", "tensorflow"} & set(pinned)


def test_image_installs_only_pins():
  text = (LAUNCH / "Dockerfile").read_text().replace("\\\n", " ")
  installs = [line for line in text.splitlines() if "install" in line]
  assert len(installs) == 1
  words = [w for w in installs[0].split() if not w.startswith("--")]
  assert words[1:] == [
    "pip", "install", "-r", "requirements.txt", "-r", "launch/requirements.txt",
  ]  # fmt: skip
  assert re.search(r"^FROM python:3\.12-slim$", text, re.M)
  assert re.search(r"^ARG UID=1000\nUSER \$\{UID\}$", text, re.M)
