"""Two rows on two seeds, by the command, of a world in miniature."""

import json

import pytest

from tests.commands import call
from tests.small_data import FLAGS


def test_two_rows_of_one_run(tmp_path):
  world, latents, out = (tmp_path / name for name in ("w", "latents", "out"))
  config = "--config=configs/ccl.py:size=tiny"
  status, text = call(
    "world", f"--output={world}", "--num_train=6", "--num_test=2"
  )
  assert status == 0, text
  status, text = call(
    "encode", config, f"--input={world}", f"--output={latents}",
    "--config.encode.video_channels=8",
  )  # fmt: skip
  assert status == 0, text
  changes = [f.removeprefix("--config.") for f in FLAGS if "eval." not in f]
  small = " ".join(changes)
  arguments = (
    "ablate", f"--data={latents}", f"--clips={world}", f"--output={out}",
    "--rows=", f"--row=a cca none {small}", f"--row=b cca ucg2 {small}",
    "--seeds=2", "--steps=2", "--tasks=a2v", "--splits=easy", "--num=2",
  )  # fmt: skip
  status, text = call(*arguments)
  assert status == 0, text
  assert sorted(p.name for p in out.iterdir()) == [
    "a_0", "a_1", "loss.png", "results.json", "settings.json", "table.md",
  ]  # fmt: skip
  results = json.loads((out / "results.json").read_text())
  assert set(results["shares"]["easy a2v"]) == {"a", "b"}
  gain = results["gains"]["easy a2v"]["b - a"]["EAC"][0]
  totals = {"none": 0.0, "ucg2": 0.0}
  for seed in range(2):
    path = out / f"a_{seed}" / "scores" / "none-ucg2" / "results.json"
    clips = json.loads(path.read_text())["easy"]["clips"]
    for rule in totals:
      totals[rule] += sum(clip["EAC"][0] for clip in clips[f"a2v {rule}"])
  assert gain == pytest.approx((totals["ucg2"] - totals["none"]) / 4)
  status, text = call(*arguments)
  assert status == 0 and "$ python" not in text  # nothing is made again
  status, text = call(*arguments, "--steps=3")
  assert status == 2 and "has results of other settings (steps)" in text
  changed = [x.replace("b cca ucg2", "b cca ucg2 seed=1") for x in arguments]
  changed = [x.replace("a cca none", "a cca none seed=1") for x in changed]
  status, text = call(*changed)
  assert status == 2 and "has results of other settings (row a)" in text


def test_what_training_refuses_is_one_line_and_leaves_nothing(tmp_path):
  """So that the same command with the mistake mended starts."""
  out = tmp_path / "out"
  status, text = call(
    "ablate", f"--data={tmp_path / 'nowhere'}", f"--clips={tmp_path}",
    f"--output={out}", "--rows=gate", "--seeds=1",
  )  # fmt: skip
  *_, first, last = text.strip().splitlines()
  assert status == 2 and "nowhere" in first and "Traceback" not in text, text
  assert last == "error: ccl_jax.train refused its flags, as said above."
  assert not out.exists()
