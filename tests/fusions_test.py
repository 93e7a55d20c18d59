"""Every fusion and its switches, from the first step to an export."""

import json

import pytest

from tests.commands import call
from tests.small_data import FLAGS

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


@pytest.mark.parametrize("name", FUSIONS)
def test_a_fusion_from_its_first_step_to_an_export(name, data, tmp_path):
  settings = dict(FUSIONS[name])
  kind, task = settings.pop("kind", "cca"), settings.pop("task", "t2av")
  config = settings.pop("config", f"ccl.py:size=tiny,fusion={kind}")

  def do(*command):
    status, text = call(*command)
    assert status == 0, text
    return text

  workdir, out = tmp_path / "run", tmp_path / "out"
  flags = [f for f in FLAGS if not f.startswith("--config.eval")]
  flags += [f"--config.model.fusion.{k}={x}" for k, x in settings.items()]
  first, _ = (
    do(
      "train", f"--config=configs/{config}",
      f"--workdir={workdir}", f"--config.data.path={data}", *flags,
      f"--config.num_train_steps={steps}", "--config.eval.tasks=()",
    )
    for steps in (1, 2)  # the second resumes
  )  # fmt: skip
  assert ("Frozen parameters are random" in first) == (name == "adapters")
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  assert [json.loads(line)["step"] for line in lines] == [1, 2]
  do(
    "sample", f"--workdir={workdir}", f"--output={out}", "--prompt=A face.",
    "--guidance=ucg2", f"--task={task}",
  )  # fmt: skip
  assert list(out.glob("*.mp4"))
  do(
    "evaluate", f"--workdir={workdir}", f"--data={data}",
    f"--output={out / 'scores'}", "--tasks=a2v", "--num=2",
    "--splits=validation", "--guidance=ucg2",
  )  # fmt: skip
  assert (out / "scores" / "results.json").exists()
  do(
    "convert", "average", f"--workdir={workdir}", "--steps=1,2",
    f"--output={tmp_path / 'mean'}",
  )  # fmt: skip
  export, back = tmp_path / "export", tmp_path / "back"
  do("convert", "to-torch", f"--workdir={workdir}", f"--output={export}")
  do(
    "convert", "from-torch", "--model=ccl", f"--input={export}",
    f"--output={back}",
  )  # fmt: skip
  assert "fusion" in do("convert", "inspect", back) or kind == "independent"
