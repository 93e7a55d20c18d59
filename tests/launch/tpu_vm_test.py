"""Queued resources of TPU VMs: what is asked of gcloud, and when."""

import shlex
import subprocess
import tarfile

import pytest

from tests.launch.stubs import values

WHERE = ("--name=joint", "--zone=us-east5-a")
TYPE = "--type=v5p-128"
TRAINING = (
  "--config=configs/ccl.py:size=14b,stage=joint",
  "--workdir=gs://bucket/joint",
  "--config.data.path=gs://bucket/latents",
  """--note=it's "a" $HOME * b""",
)
GONE = "echo 'ERROR: (gcloud) NOT_FOUND: no such resource' >&2; exit 1"


@pytest.fixture
def machine(machine):
  """With a Git repository, whose tracked files `setup` copies."""
  git = ["git", "-c", "user.name=n", "-c", "user.email=e"]
  for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
    subprocess.run([*git, *command], cwd=machine.checkout, check=True)
  who = ("GIT_AUTHOR", "GIT_COMMITTER")
  machine.environment |= {f"{w}_NAME": "n" for w in who}
  machine.environment |= {f"{w}_EMAIL": "e" for w in who}
  return machine


def steps(machine):
  """The calls, as words: create, describe, setup, start, status, ..."""
  found = []
  for call in machine.calls:
    assert call[:4] == ["gcloud", "compute", "tpus", "queued-resources"]
    assert "--zone=us-east5-a" in call and "--quiet" in call
    word = call[4]
    if word == "ssh":
      (command,) = values(call, "command")
      words = ("setup", "start", "status", "stop", "log")
      (word,) = [w for w in words if f"launch/worker.sh {w}" in command]
    found.append(word)
  return found


def changes(machine):
  """The calls that change something."""
  return [s for s in steps(machine) if s not in ("describe", "status", "scp")]


def states(machine, *words):
  machine.play("describe", *(w if " " in w else f"echo {w}" for w in words))


def hosts(machine, *words):
  machine.play(
    "worker.sh status",
    *(w if " " in w else f"echo 'worker: {w}'" for w in words),
  )


def test_dry_run_prints_all_and_calls_nothing(machine):
  done = machine.run(
    "tpu_vm.sh", "up", *WHERE, TYPE, "--dry-run", "--", *TRAINING
  )
  assert done.returncode == 0, done.stderr
  assert not machine.calls
  words = shlex.split(done.stdout)
  order = [words.index(w) for w in ("create", "describe", "archive", "scp")]
  assert order == sorted(order)
  remote = [word for word in words if word.startswith("--command=")]
  assert len(remote) == 3
  assert shlex.split(remote[1])[-len(TRAINING) :] == list(TRAINING)


@pytest.mark.parametrize(
  ("flags", "expected"),
  [
    ((), ["--node-id=joint"]),
    (("--spot",), ["--node-id=joint", "--spot"]),
    (
      ("--slices=2", "--reserved", "--project=p", "--extra=--internal-ips"),
      ["--node-count=2", "--reserved", "--internal-ips", "--project=p"],
    ),
  ],
)
def test_create_waits_until_active(machine, flags, expected):
  states(machine, "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
  done = machine.run("tpu_vm.sh", "create", *WHERE, TYPE, *flags)
  assert done.returncode == 0, done.stderr
  assert steps(machine) == ["create"] + ["describe"] * 3
  call = machine.calls[0]
  assert values(call, "accelerator-type") == ["v5p-128"]
  assert values(call, "runtime-version") == ["v2-alpha-tpuv5"]
  chosen = ("--node", "--spot", "--reserved", "--internal-ips", "--project")
  assert {w for w in call if w.startswith(chosen)} == set(expected)


def test_create_says_when_it_failed(machine):
  states(machine, "WAITING_FOR_RESOURCES", "FAILED")
  done = machine.run("tpu_vm.sh", "create", *WHERE, TYPE)
  assert done.returncode == 2
  assert "joint is FAILED" in done.stderr


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ((*WHERE, TYPE, "--spot", "--reserved"), "exclude each other"),
    ((*WHERE, "--type=v9-8"), "no default for --runtime"),
    (
      (*WHERE, "--type=tpu7x-128"),
      "no slices from tpu7x on; use launch/gke.sh",
    ),
    (WHERE, "--type=VALUE is required"),
    (("--name=n", TYPE), "--zone=VALUE is required"),
    ((*WHERE, TYPE, "--slices=0"), "--slices=0: expected 1 or more"),
  ],
)
def test_create_refuses(machine, flags, message):
  done = machine.run("tpu_vm.sh", "create", *flags)
  assert done.returncode == 2
  assert message in done.stderr
  assert not machine.calls


def test_setup_copies_tracked_files_as_they_are(machine):
  (machine.checkout / "launch" / "demo.sh").write_text("changed")
  (machine.checkout / "untracked").write_text("")
  machine.play(" scp ", 'cp runs/ccl_jax.tar.gz "$stubs/sent"')
  done = machine.run("tpu_vm.sh", "setup", *WHERE, "--iap")
  assert done.returncode == 0, done.stderr
  copy, install = machine.calls
  assert copy[5:7] == ["runs/ccl_jax.tar.gz", "joint:ccl_jax.tar.gz"]
  for call in (copy, install):
    everywhere = {"--node=all", "--worker=all", "--tunnel-through-iap"}
    assert everywhere < set(call)
  assert "worker.sh setup" in values(install, "command")[0]
  with tarfile.open(machine.stubs / "sent") as archive:
    assert archive.extractfile("launch/demo.sh").read() == b"changed"
    assert "untracked" not in archive.getnames()


def test_setup_clones(machine):
  url = "https://example.com/a b.git"
  done = machine.run(
    "tpu_vm.sh", "setup", *WHERE, f"--git={url}", "--revision=v1"
  )
  assert done.returncode == 0, done.stderr
  (call,) = machine.calls
  words = shlex.split(values(call, "command")[0])
  assert url in words and "v1" in words


def test_run_hands_the_flags_over_unchanged(machine):
  done = machine.run("tpu_vm.sh", "run", *WHERE, "--", *TRAINING)
  assert done.returncode == 0, done.stderr
  (call,) = machine.calls
  assert shlex.split(values(call, "command")[0]) == [
    "JAX_PLATFORMS=tpu,cpu", "bash", "ccl_jax/launch/worker.sh", "start",
    *TRAINING,
  ]  # fmt: skip


def test_hosts_find_compiled_programs_in_a_bucket(machine):
  cache = "--compilation-cache=gs://b/it's"
  done = machine.run("tpu_vm.sh", "run", *WHERE, cache, "--", *TRAINING)
  assert done.returncode == 0, done.stderr
  (call,) = machine.calls
  assert shlex.split(values(call, "command")[0])[:3] == [
    "JAX_PLATFORMS=tpu,cpu", "JAX_COMPILATION_CACHE_DIR=gs://b/it's", "bash",
  ]  # fmt: skip


@pytest.mark.parametrize("subcommand", ["logs", "stop", "delete"])
def test_one_call(machine, subcommand):
  done = machine.run("tpu_vm.sh", subcommand, *WHERE)
  assert done.returncode == 0, done.stderr
  (call,) = machine.calls
  expected = {
    "logs": {"--node=0", "--worker=0"},
    "stop": {"--node=all", "--worker=all"},
    "delete": {"delete", "joint", "--force"},
  }
  assert expected[subcommand] < set(call)


def up(machine, *flags):
  return machine.run("tpu_vm.sh", "up", *WHERE, TYPE, *flags, "--", *TRAINING)


def test_up_survives_a_preemption(machine):
  states(
    machine, GONE, "PROVISIONING", "ACTIVE", "ACTIVE", "SUSPENDING",
    "SUSPENDED", "WAITING_FOR_RESOURCES", "ACTIVE",
  )  # fmt: skip
  # Fresh, running; fresh again, running, the end on one host, on both.
  hosts(
    machine, "none", "running", "none", "running",
    r"printf 'worker: finished\nworker: running\n'",
    r"printf 'worker: finished\nworker: finished\n'",
  )  # fmt: skip
  done = up(machine, "--spot")
  assert done.returncode == 0, done.stderr
  once = ["create", "setup", "start"]
  assert changes(machine) == [*once, "delete", *once]
  starts = [c for c in machine.calls if "worker.sh start" in " ".join(c)]
  assert starts[0] == starts[1]
  assert "restart 1 of 20" in done.stderr


def test_restarts_are_bounded(machine):
  states(machine, "SUSPENDED")
  done = up(machine, "--max-restarts=2")
  assert done.returncode == 2
  assert changes(machine) == ["delete", "create"] * 2
  assert "giving up after 2 restarts" in done.stderr


def test_failed_training_starts_again_on_the_same_slices(machine):
  states(machine, "ACTIVE")
  failed = r"printf 'ValueError\nworker: failed\nworker: running\n'"
  hosts(machine, failed, failed, failed, "running", "finished")
  done = up(machine)
  assert done.returncode == 0, done.stderr
  assert changes(machine) == ["setup", "start"]
  assert "ValueError" in done.stderr


def test_a_wrong_config_is_not_started_again(machine):
  states(machine, "ACTIVE")
  refused = r"printf 'error: no such key\nworker: refused\nworker: failed\n'"
  hosts(machine, "none", refused)
  done = up(machine)
  assert done.returncode == 2
  assert changes(machine) == ["setup", "start"]
  assert "error: no such key" in done.stderr
  assert "config is wrong" in done.stderr


def test_up_starts_what_was_refused_before(machine):
  """With other flags."""
  states(machine, "ACTIVE")
  hosts(machine, "refused", "running", "finished")
  done = up(machine)
  assert done.returncode == 0, done.stderr
  assert changes(machine) == ["setup", "start"]


def test_a_failure_just_before_the_preemption_shows(machine):
  states(machine, "ACTIVE", "ACTIVE", "SUSPENDED", "ACTIVE")
  hosts(machine, "failed", "failed", "none", "finished")
  done = up(machine)
  assert done.returncode == 0, done.stderr
  assert changes(machine) == ["delete", "create", "setup", "start"]


def test_hosts_out_of_reach_keep_their_slices(machine):
  states(machine, "ACTIVE", "exit 1", "ACTIVE")
  unreachable = "echo 'worker: running'; exit 255"
  hosts(machine, *[unreachable] * 5, "finished")
  done = up(machine)
  assert done.returncode == 0, done.stderr
  assert changes(machine) == []


def test_watch_does_not_make_again_what_was_deleted(machine):
  states(machine, "ACTIVE", GONE)
  hosts(machine, "running")
  done = machine.run("tpu_vm.sh", "watch", *WHERE, TYPE, "--", *TRAINING)
  assert done.returncode == 2
  assert "joint was deleted" in done.stderr
  assert changes(machine) == []


def test_creation_is_tried_again(machine):
  states(machine, "FAILED", "FAILED", "ACTIVE")
  machine.play(" create ", "exit 1", "exit 1", ":")
  hosts(machine, "finished")
  done = up(machine)
  assert done.returncode == 0, done.stderr
  assert changes(machine) == ["delete", "create", "create", "create"]
  assert "restart 3 of 20" in done.stderr
