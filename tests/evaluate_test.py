"""The demo in miniature: world, encode, train, evaluate, by their commands."""

import json

from tests.train_test import SMALL, call

ROWS = {"ground truth", "codec ceiling", "shuffled floor", "a2v", "v2a"}


def test_from_nothing_to_a_table(tmp_path):
  world, latents, run, out = (
    tmp_path / name for name in ("world", "latents", "run", "out")
  )
  config = "--config=configs/ccl.py:size=tiny"
  steps = (
    ("world", f"--output={world}", "--train=6", "--test=2"),
    ("encode", config, f"--input={world}", f"--output={latents}"),
    (
      "train", config, f"--workdir={run}", f"--config.data.path={latents}",
      "--config.steps=1", "--config.eval.split=easy", *SMALL,
    ),
    (
      "evaluate", f"--workdir={run}", f"--data={latents}", f"--clips={world}",
      f"--out={out}", "--tasks=a2v,v2a", "--num=2",
    ),
  )  # fmt: skip
  for module, *arguments in steps:
    status, text = call(module, *arguments)
    assert status == 0, text
  results = json.loads((out / "results.json").read_text())
  assert set(results) == {"easy", "hard"}
  assert all(set(rows) == ROWS for rows in results.values())
  eac = {row: value["EAC"][0] for row, value in results["easy"].items()}
  assert eac["ground truth"] > 0.85
  assert eac["codec ceiling"] > eac["shuffled floor"]
  assert len(list(out.rglob("*.mp4"))) == 2 * 2 * 2
  assert (out / "table.md").exists() and (out / "sheet.png").exists()
