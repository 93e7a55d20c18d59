"""The demo in miniature: world, encode, train, evaluate, by their commands."""

import json

from tests.commands import call
from tests.small_data import FLAGS

REFERENCES = {
  "ground truth",
  "codec ceiling",
  "blind a2v",
  "blind v2a",
  "blind",
  "shuffled",
}
ROWS = {"a2v text", "a2v ucg2"}  # fmt: skip


def give_equal_stems(world):
  """Moves the second easy clip to another folder, with the first one's name."""
  old, new = "easy_1000001.mp4", "sub/easy_1000000.mp4"
  (world / "sub").mkdir()
  (world / old).rename(world / new)
  text = (world / "captions.jsonl").read_text()
  (world / "captions.jsonl").write_text(text.replace(old, new))


def test_from_nothing_to_a_table(tmp_path):
  world, latents, run, out = (
    tmp_path / name for name in ("world", "latents", "run", "out")
  )
  config = "--config=configs/ccl.py:size=tiny"
  steps = (
    ("world", f"--output={world}", "--num_train=6", "--num_test=2"),
    (
      "encode", config, f"--input={world}", f"--output={latents}",
      "--config.encode.video_channels=8",
    ),
    (
      "train", config, f"--workdir={run}", f"--config.data.path={latents}",
      "--config.num_train_steps=1", "--config.eval.split=easy", *FLAGS,
      "--config.eval.tasks=()",
    ),
    (
      "evaluate", f"--workdir={run}", f"--data={latents}", f"--clips={world}",
      f"--output={out}", "--tasks=a2v", "--num=2", "--guidance=text,ucg2",
      "--seeds=2",
    ),
  )  # fmt: skip
  for module, *arguments in steps:
    status, text = call(module, *arguments)
    assert status == 0, text
    if module == "world":
      give_equal_stems(world)
  results = json.loads((out / "results.json").read_text())
  assert set(results) == {"easy", "hard"}
  for split in results.values():
    assert set(split["scores"]) == REFERENCES | ROWS | {"a2v ucg2 - text"}
    assert set(split["shares"]) == ROWS | {"shuffled"}
  scores = results["easy"]["scores"]
  eac = {row: value["EAC"][0] for row, value in scores.items()}
  assert eac["ground truth"] > 0.85
  assert eac["blind"] == max(eac["blind a2v"], eac["blind v2a"])
  report = (out / "table.md").read_text()
  assert report.count("Share of the way from the blind floor") == 2
  gain = eac["a2v ucg2"] - eac["a2v text"]
  assert abs(eac["a2v ucg2 - text"] - gain) < 1e-9
  assert len(list(out.rglob("*.mp4"))) == 2 * 2 * 2  # of the first seed only
  assert (out / "table.md").exists() and (out / "sheet.png").exists()


def test_a_row_that_does_not_exist_is_told_before_anything_is_read(tmp_path):
  status, text = call(
    "evaluate", "--workdir=none", "--data=none", f"--output={tmp_path}",
    "--guidance=text,ucg9",
  )  # fmt: skip
  assert status == 2 and "Unknown guidance 'ucg9', expected one of" in text
