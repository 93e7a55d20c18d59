"""Every fusion and its switches, from the first step to an export.

Each command is the real one in a process of its own. These are forks of one
process that has the imports, which are most of the time.
"""

import json
import multiprocessing
import os
import runpy
import sys

import pytest

from tests.small_data import FLAGS

# None of these is a command: those would define flags.
IMPORTED = [
  "ccl_jax.convert.export", "ccl_jax.convert.inspection",
  "ccl_jax.generation.batch", "ccl_jax.generation.previews",
  "ccl_jax.metrics.synchworld", "ccl_jax.training.log",
  "ccl_jax.training.state", "librosa.core.spectrum", "librosa.filters",
  "librosa.util",
]  # fmt: skip
# Those of the defaults are in train_test.py.
FUSIONS = {
  "in context": {"config": "icac.py:size=tiny", "task": "t2v"},
  "adapters": {"config": "avdit.py:size=tiny"},
  "independent": {"kind": "independent"},
  "gated": {"kind": "gated"},
  "no LCT": {"num_audio_lct": 0, "num_video_lct": 0},
  "no audio LCT, no DCR": {"num_audio_lct": 0, "dcr": False},
  "no video LCT, no TARP": {"num_video_lct": 0, "tarp": False},
}


@pytest.fixture(scope="module")
def forks(programs):
  """Makes processes that have the imports."""
  context = multiprocessing.get_context("forkserver")
  context.set_forkserver_preload(IMPORTED)
  return context


def run_command(log, module, *arguments):
  """Runs `ccl_jax.MODULE` in this process; what it prints goes to a file."""
  with log.open("w") as file:
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
  sys.argv = [module, *map(str, arguments)]
  runpy.run_module(f"ccl_jax.{module}", run_name="__main__", alter_sys=True)


@pytest.mark.parametrize("name", FUSIONS)
def test_a_fusion_from_its_first_step_to_an_export(name, data, tmp_path, forks):
  settings = dict(FUSIONS[name])
  kind, task = settings.pop("kind", "cca"), settings.pop("task", "t2av")
  config = settings.pop("config", f"ccl.py:size=tiny,fusion={kind}")

  def call(*command):
    log = tmp_path / "log"
    process = forks.Process(target=run_command, args=(log, *command))
    process.start()
    process.join()
    assert process.exitcode == 0, log.read_text()
    return log.read_text()

  workdir, out = tmp_path / "run", tmp_path / "out"
  flags = [f for f in FLAGS if not f.startswith("--config.eval")]
  flags += [f"--config.model.fusion.{k}={x}" for k, x in settings.items()]
  first, _ = (
    call(
      "train", f"--config=configs/{config}",
      f"--workdir={workdir}", f"--config.data.path={data}", *flags,
      f"--config.num_train_steps={steps}", "--config.eval.tasks=()",
    )
    for steps in (1, 2)  # the second resumes
  )  # fmt: skip
  assert ("Frozen parameters are random" in first) == (name == "adapters")
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  assert [json.loads(line)["step"] for line in lines] == [1, 2]
  call(
    "sample", f"--workdir={workdir}", f"--output={out}", "--prompt=A face.",
    "--guidance=ucg2", f"--task={task}",
  )  # fmt: skip
  assert list(out.glob("*.mp4"))
  call(
    "evaluate", f"--workdir={workdir}", f"--data={data}",
    f"--output={out / 'scores'}", "--tasks=a2v", "--num=2",
    "--splits=validation", "--guidance=ucg2",
  )  # fmt: skip
  assert (out / "scores" / "results.json").exists()
  call(
    "convert", "average", f"--workdir={workdir}", "--steps=1,2",
    f"--output={tmp_path / 'mean'}",
  )  # fmt: skip
  export, back = tmp_path / "export", tmp_path / "back"
  call("convert", "to-torch", f"--workdir={workdir}", f"--output={export}")
  call(
    "convert", "from-torch", "--model=ccl", f"--input={export}",
    f"--output={back}",
  )  # fmt: skip
  assert "fusion" in call("convert", "inspect", back) or kind == "independent"
