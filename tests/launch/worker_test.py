"""A host of a pod: exit codes, SIGTERM, and the background run."""

import signal
import subprocess
import time

import pytest

FLAGS = ("--config=c", "--workdir=gs://b/x", "--note=it's a")
# A training program that saves for a while after SIGTERM, and ends with 0.
TRAIN = """trap 'sleep 0.2; echo >"$stubs/saved"; exit 0' TERM
echo begun >"$stubs/begun"
while :; do sleep 0.05; done"""


def await_file(path):
  end = time.monotonic() + 10
  while not path.exists():
    assert time.monotonic() < end, path
    time.sleep(0.01)


def status(machine):
  done = machine.run("worker.sh", "status")
  assert done.returncode == 0, done.stderr
  return done.stdout


@pytest.mark.parametrize("code", [0, 2, 3])
def test_train_passes_flags_and_code_on(machine, code):
  machine.play("python", f"exit {code}")
  assert machine.run("worker.sh", "train", *FLAGS).returncode == code
  expected = ["python", "-m", "ccl_jax.train", "--distributed=auto", *FLAGS]
  assert machine.calls == [expected]


def test_sigterm_saves_and_is_no_success(machine):
  machine.play("python", TRAIN)
  with subprocess.Popen(**machine.command("worker.sh", "train")) as process:
    await_file(machine.stubs / "begun")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 128 + signal.SIGTERM
  assert (machine.stubs / "saved").exists()


@pytest.mark.parametrize(
  ("code", "word"),
  [
    (0, "finished"),
    (2, "refused"),
    (3, "failed"),
  ],
)
def test_background_run_ends(machine, code, word):
  assert status(machine) == "worker: none\n"
  machine.play("python", f"echo output; exit {code}")
  assert machine.run("worker.sh", "start", *FLAGS).returncode == 0
  await_file(machine.checkout / "runs" / "worker" / "code")
  while "running" in (text := status(machine)):
    time.sleep(0.01)
  assert text == f"worker: {word}\n"
  log = (machine.checkout / "runs" / "worker" / "log").read_text()
  assert "output" in log


def test_background_run_is_stopped_and_replaced(machine):
  machine.play("python", TRAIN)
  for _ in range(2):
    (machine.stubs / "begun").unlink(missing_ok=True)
    assert machine.run("worker.sh", "start", *FLAGS).returncode == 0
    await_file(machine.stubs / "begun")
  assert len(machine.calls) == 2
  assert (machine.stubs / "saved").exists()
  assert status(machine) == "worker: running\n"
  assert machine.run("worker.sh", "stop").returncode == 0
  assert status(machine) == "worker: failed\n"


def test_stop_kills_what_does_not_listen(machine):
  deaf = TRAIN.partition("\n")[2]
  machine.play("python", f"trap '' TERM\n{deaf}")
  machine.run("worker.sh", "start", *FLAGS)
  await_file(machine.stubs / "begun")
  assert machine.run("worker.sh", "stop", STOP_SECONDS="0").returncode == 0
  assert status(machine) == "worker: failed\n"


def test_setup_installs_once(machine):
  machine.play("uv venv", 'mkdir -p .venv/bin; cp "$0" .venv/bin/python')
  for _ in range(2):
    assert machine.run("worker.sh", "setup").returncode == 0
  calls = [" ".join(call) for call in machine.calls]
  assert len(calls) == 4
  assert "uv==" in calls[0]
  assert "--python=3.12" in calls[1]
  assert calls[2] == calls[3]
  assert calls[2].endswith("-r requirements.txt -r launch/requirements.txt")
