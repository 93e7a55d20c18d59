"""The JobSet and what is asked of docker, kubectl and xpk."""

import shlex

import pytest
import yaml

from tests.launch.stubs import values

KNOWN = ("--name=joint", "--image=registry.example/ccl:1")
TRAINING = (
  "--config=configs/ccl.py:size=14b,stage=joint",
  "--workdir=gs://bucket/joint",
  """--note=it's "a" \\ $(HOME) $$ @name@ é: {}""",
)
XPK = (
  "--with=xpk", "--cluster=c", "--zone=z", "--project=p", "--type=v5p-256",
)  # fmt: skip


def kubernetes(word):
  """What a container gets: $$ is $, and only then could $(NAME) be a name."""
  assert "$(" not in word.replace("$$", "")
  return word.replace("$$", "$")


def check_manifest(text, slices, hosts):
  manifest = yaml.safe_load(text)
  assert manifest["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
  assert manifest["kind"] == "JobSet"
  assert manifest["metadata"]["name"] == "joint"
  policy = manifest["spec"]["failurePolicy"]
  assert policy["maxRestarts"] == 7
  # Code 2, and no other, ends the job.
  (rule,) = policy["rules"]
  assert rule["action"] == "FailJobSet"
  assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
  (job,) = manifest["spec"]["replicatedJobs"]
  assert job["replicas"] == slices
  job = job["template"]["spec"]
  assert job["parallelism"] == job["completions"] == hosts
  assert job["backoffLimit"] == 0
  (rule,) = job["podFailurePolicy"]["rules"]
  assert rule == {
    "action": "FailJob",
    "onExitCodes": {
      "containerName": "train", "operator": "In", "values": [2],
    },
  }  # fmt: skip
  pod = job["template"]["spec"]
  assert pod["restartPolicy"] == "Never"
  (container,) = pod["containers"]
  assert container["image"] == "registry.example/ccl:1"
  assert container["command"] == ["bash", "launch/worker.sh", "train"]
  assert tuple(map(kubernetes, container["args"])) == TRAINING
  return pod, container


def test_render(machine):
  done = machine.run(
    "gke.sh", "render", *KNOWN, "--slices=2", "--max-restarts=7", "--uid=1001",
    "--service-account=trainer", "--", *TRAINING,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  pod, container = check_manifest(done.stdout, slices=2, hosts=16)
  assert pod["nodeSelector"] == {
    "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice",
    "cloud.google.com/gke-tpu-topology": "4x4x4",
  }
  assert pod["serviceAccountName"] == "trainer"
  assert container["resources"]["limits"] == {"google.com/tpu": 4}
  expected = {"runAsUser": 1001, "privileged": False}
  assert container["securityContext"] == expected
  assert pod["terminationGracePeriodSeconds"] == 300
  assert container["env"] == [{"name": "JAX_PLATFORMS", "value": "tpu,cpu"}]
  assert container["ports"] == []
  assert pod["volumes"][0]["emptyDir"] == {"medium": "Memory"}
  manifest = yaml.safe_load(done.stdout)
  assert manifest["metadata"]["labels"] == {}
  assert manifest["spec"]["ttlSecondsAfterFinished"] == 86400
  assert not machine.calls


def test_render_with_options(machine):
  done = machine.run(
    "gke.sh", "render", *KNOWN, "--queue=tpus", "--priority=high",
    "--profiler-port=9012", "--compilation-cache=gs://b/$(X) \"c\"",
    "--grace=60", "--ttl=0", "--", *TRAINING,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  manifest = yaml.safe_load(done.stdout)
  assert manifest["metadata"]["labels"] == {
    "kueue.x-k8s.io/queue-name": "tpus",
    "kueue.x-k8s.io/priority-class": "high",
  }
  assert manifest["spec"]["ttlSecondsAfterFinished"] == 0
  (job,) = manifest["spec"]["replicatedJobs"]
  pod = job["template"]["spec"]["template"]["spec"]
  assert pod["terminationGracePeriodSeconds"] == 60
  (container,) = pod["containers"]
  assert container["ports"] == [{"name": "profiler", "containerPort": 9012}]
  values = {e["name"]: kubernetes(e["value"]) for e in container["env"]}
  assert values["JAX_COMPILATION_CACHE_DIR"] == 'gs://b/$(X) "c"'
  assert container["args"][-1] == "--config.log.profiler_port=9012"


def test_kubectl_gets_the_manifest(machine):
  machine.play("kubectl apply", 'cat >"$stubs/manifest"')
  done = machine.run(
    "gke.sh", "run", *KNOWN, "--accelerator=tpu-v6e-slice", "--topology=4x4",
    "--max-restarts=7", "--privileged", "--host-memory", "--", *TRAINING,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert machine.calls == [["kubectl", "apply", "--filename=-"]]
  text = (machine.stubs / "manifest").read_text()
  pod, container = check_manifest(text, slices=1, hosts=4)
  assert container["securityContext"] == {"runAsUser": 1000, "privileged": True}
  (memory,) = pod["volumes"]
  assert memory["hostPath"] == {"path": "/dev/shm"}


def test_kubectl_dry_run(machine):
  done = machine.run("gke.sh", "run", *KNOWN, "--dry-run", "--", *TRAINING)
  first, *manifest, last = done.stdout.splitlines()
  assert first == "kubectl apply --filename=- <<'EOF'"
  assert last == "EOF"
  assert yaml.safe_load("\n".join(manifest))["kind"] == "JobSet"
  assert not machine.calls


def test_xpk(machine):
  done = machine.run(
    "gke.sh", "run", *KNOWN, *XPK, "--slices=3", "--extra=--headless",
    "--compilation-cache=gs://b/c", "--priority=low", "--", *TRAINING,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  (call,) = machine.calls
  assert values(call, "env") == [
    "JAX_PLATFORMS=tpu,cpu", "JAX_COMPILATION_CACHE_DIR=gs://b/c",
  ]  # fmt: skip
  assert call[:3] == ["xpk", "workload", "create"]
  expected = {
    "workload": "joint", "cluster": "c", "zone": "z", "project": "p",
    "tpu-type": "v5p-256", "num-slices": "3", "max-restarts": "20",
    "docker-image": "registry.example/ccl:1", "restart-on-exit-codes": "1",
    "priority": "low", "termination-grace-period-seconds": "300",
    "ttl-seconds-after-finished": "86400",
  }  # fmt: skip
  assert {name: values(call, name) for name in expected} == {
    name: [value] for name, value in expected.items()
  }
  (command,) = values(call, "command")
  words = shlex.split(kubernetes(command))
  assert words == ["exec", "bash", "launch/worker.sh", "train", *TRAINING]


def test_xpk_dry_run(machine):
  done = machine.run(
    "gke.sh", "run", *KNOWN, *XPK, "--dry-run", "--", *TRAINING
  )
  assert shlex.split(done.stdout)[:3] == ["xpk", "workload", "create"]
  assert not machine.calls


def test_build(machine):
  done = machine.run("gke.sh", "build", KNOWN[1])
  assert done.returncode == 0, done.stderr
  build, push = machine.calls
  assert build[:2] == ["docker", "build"] and build[-1] == "."
  assert values(build, "file") == ["launch/Dockerfile"]
  assert values(build, "tag") == ["registry.example/ccl:1"]
  assert values(build, "build-arg") == ["UID=1000"]
  assert push == ["docker", "push", "registry.example/ccl:1"]


def test_a_failed_build_is_not_pushed(machine):
  machine.play("docker build", "exit 1")
  assert machine.run("gke.sh", "build", KNOWN[1]).returncode == 1
  assert len(machine.calls) == 1


def test_logs_and_delete(machine):
  machine.run("gke.sh", "logs", KNOWN[0], "--namespace=n")
  machine.run("gke.sh", "delete", KNOWN[0], "--namespace=n")
  logs, delete = machine.calls
  assert logs[:3] == ["kubectl", "logs", "--follow"]
  assert "jobset-name=joint" in values(logs, "selector")[0]
  assert delete == ["kubectl", "delete", "jobset", "joint", "--namespace=n"]


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ((KNOWN[0],), "--image=VALUE is required"),
    ((KNOWN[1],), "--name=VALUE is required"),
    ((KNOWN[1], "--name=Joint_1"), "--name=Joint_1: expected"),
    ((*KNOWN, "--with=helm"), "expected kubectl or xpk"),
    ((*KNOWN, "--with=xpk"), "--cluster=VALUE is required"),
    ((*KNOWN, "--topology=4by4"), "--topology=4by4: expected"),
    ((*KNOWN, "--topology=3x3"), "--topology=3x3 has 9 chips"),
  ],
)
def test_refuses(machine, flags, message):
  done = machine.run("gke.sh", "run", *flags, "--", *TRAINING)
  assert done.returncode == 2
  assert message in done.stderr
  assert not machine.calls


def test_refuses_line_breaks(machine):
  done = machine.run("gke.sh", "run", *KNOWN, "--", *TRAINING, "--a=b\nc")
  assert done.returncode == 2
  assert "line break" in done.stderr
