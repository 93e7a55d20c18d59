"""The demo in miniature: world, encode, train, evaluate, by their commands."""

import json

import pytest

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
    ("world", f"--output={world}", "--num_train=6", "--num_test=4"),
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
      f"--output={out}", "--tasks=t2av", "--num=2", "--seeds=2",
      "--guidance=text:2,ucg2:2,ucg2:3", "--sweep=EAC", "--attention",
    ),
  )  # fmt: skip
  for module, *arguments in steps:
    status, text = call(module, *arguments)
    assert status == 0, text
    if module == "world":
      give_equal_stems(world)
  results = json.loads((out / "results.json").read_text())
  assert set(results) == {"easy", "hard"}
  report = (out / "table.md").read_text()
  for split in results.values():
    shuffled, text, ucg = sorted(split["shares"])
    assert shuffled == "shuffled" and text == "t2av text:2"
    assert ucg in ("t2av ucg2:2", "t2av ucg2:3")
    gain = f"{ucg} - text:2"
    assert set(split["scores"]) == REFERENCES | {text, ucg, gain}
    assert {f"{x} audio, layer 0" for x in (text, ucg)} <= set(
      split["attention"]
    )
  assert report.count("by EAC on 2 other clips") == 2
  assert report.count("| t2av ucg2:3 |") >= 2
  scores = results["easy"]["scores"]
  eac = {row: value["EAC"][0] for row, value in scores.items()}
  assert eac["ground truth"] > 0.85
  assert eac["blind"] == max(eac["blind a2v"], eac["blind v2a"])
  assert report.count("Share of the way from the blind floor") == 2
  _, text, ucg = sorted(results["easy"]["shares"])
  gain = eac[ucg] - eac[text]
  assert abs(eac[f"{ucg} - text:2"] - gain) < 1e-9
  assert len(list(out.rglob("*.mp4"))) == 2 * 2 * 2  # of the first seed only
  assert (out / "sheet.png").exists()
  assert (out / "easy_attention.png").exists()


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    ("--guidance=text,ucg9", "Unknown guidance 'ucg9', expected one of"),
    ("--guidance=ucg2:1:2", "Guidance 'ucg2:1:2': expected 'ucg2:SCALE'"),
    ("--sweep=EAC", "expected rules to choose from"),
  ],
)
def test_what_cannot_be_is_told_before_anything_is_read(
  tmp_path, flag, message
):
  status, text = call(
    "evaluate", "--workdir=none", "--data=none", f"--output={tmp_path}", flag
  )
  assert status == 2 and message in text
