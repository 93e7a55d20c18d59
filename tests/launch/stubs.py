"""Cloud commands that record how they are called and play what a test says."""

import os
import pathlib
import shutil
import subprocess

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
COMMANDS = (
  "apt-get", "docker", "dpkg-deb", "gcloud", "kubectl", "pip", "python",
  "python3", "ruff", "sbatch", "scontrol", "srun", "xpk",
)  # fmt: skip
STUB = """#!/bin/bash
shopt -s nullglob
stubs={stubs}
call="${{0##*/}} $*"
printf '%s\\x1f' "${{0##*/}}" "$@" >>"$stubs/calls"
printf '\\x1e' >>"$stubs/calls"
for rule in "$stubs"/rules/*/; do
  [[ $call == *"$(<"$rule/pattern")"* ]] || continue
  number=$(<"$rule/number")
  [[ ! -e $rule/$((number + 1)) ]] || echo $((number + 1)) >"$rule/number"
  source "$rule/$number"
  exit
done
"""


class Machine:
  """A checkout with only launch/, on a machine whose commands are stubs."""

  def __init__(self, folder: pathlib.Path):
    self.checkout = folder / "checkout"
    self.stubs = folder / "stubs"
    shutil.copytree(LAUNCH, self.checkout / "launch")
    (self.stubs / "bin").mkdir(parents=True)
    (self.stubs / "rules").mkdir()
    for name in COMMANDS:
      stub = self.stubs / "bin" / name
      stub.write_text(STUB.format(stubs=self.stubs))
      stub.chmod(0o755)
    self.environment = {
      "PATH": f"{self.stubs / 'bin'}:{os.environ['PATH']}",
      "HOME": str(folder),
      "POLL_SECONDS": "0",
    }

  def play(self, pattern: str, *replies: str) -> None:
    """Calls that contain `pattern` source these lines of bash, one each.

    The last reply is repeated. The first rule that matches counts.
    """
    rule = self.stubs / "rules" / f"{len(list(self.stubs.glob('rules/*'))):02}"
    rule.mkdir()
    (rule / "pattern").write_text(pattern)
    (rule / "number").write_text("0")
    for i, reply in enumerate(replies):
      (rule / str(i)).write_text(reply)

  def command(self, script: str, *arguments: str, **environment: str) -> dict:
    """Arguments of subprocess.run or Popen that start a script of launch/."""
    return dict(
      args=["bash", str(self.checkout / "launch" / script), *arguments],
      env=self.environment | environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  def run(self, script: str, *arguments: str, **environment: str):
    """Runs a script of launch/ to its end."""
    command = self.command(script, *arguments, **environment)
    return subprocess.run(**command, timeout=20, check=False)

  @property
  def calls(self) -> list[list[str]]:
    """All calls of stubs so far: name and arguments."""
    file = self.stubs / "calls"
    calls = file.read_text().split("\x1e")[:-1] if file.exists() else []
    return [call.split("\x1f")[:-1] for call in calls]


def values(call: list[str], name: str) -> list[str]:
  """The values of --name=... in a call."""
  start = f"--{name}="
  return [word[len(start) :] for word in call if word.startswith(start)]
