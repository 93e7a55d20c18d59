"""Clips of any frame rate, from the files to scores and to new files."""

import json

import numpy as np
import pytest

from ccl_jax.data import media, records
from ccl_jax.data.synthetic.scene import draw_scene, make_captions
from tests.commands import call
from tests.data import flash
from tests.small_data import FLAGS

SIZE, RATE, LATENT = 32, 16_000, 512
TINY = "--config=configs/ccl.py:size=tiny"


def write_clips(folder, fps, frames):
  """Writes six clips that flash and beep in a frame; returns its number.

  Their captions are those of scenes, which `evaluate` reads.
  """
  folder.mkdir()
  lit, rows, rng = round(0.6 * frames), [], np.random.default_rng(0)
  sound = flash.beeps(frames / fps, [lit / fps], RATE)
  for i, split in enumerate(["train"] * 4 + ["easy"] * 2):
    shown = np.arange(frames)
    is_lit = (shown >= lit) & (shown < lit + 0.08 * fps)
    video = np.stack([flash.picture((SIZE, SIZE), lit) for lit in is_lit])
    video -= np.minimum(video, rng.integers(0, 30, video.shape, np.uint8))
    noisy = sound + rng.normal(0, 0.01, len(sound)).astype(np.float32)
    media.write_mp4(folder / f"{i}.mp4", video, fps, noisy, RATE, crf=10)
    caption = make_captions(draw_scene(i, False, frames / fps))
    rows.append({"file": f"{i}.mp4", "split": split} | caption)
  lines = "".join(json.dumps(row) + "\n" for row in rows)
  (folder / "captions.jsonl").write_text(lines)
  return lit


def check_file(path, fps, frames, lit=None):
  """Checks rate and lengths, and of given streams flash against beep."""
  with media.av.open(str(path)) as container:
    assert abs(float(container.streams.video[0].average_rate) - fps) < 1e-3
    assert container.streams.video[0].frames == frames
  clip = media.read_clip(path, fps=fps)
  assert len(clip.video) == frames
  with media.av.open(str(path)) as container:
    made = sum(x.samples for x in container.decode(audio=0))
    rate = container.streams.audio[0].rate
  assert abs(made / rate - frames / fps) <= LATENT / RATE + 1024 / rate
  if lit is not None:
    (seen,), heard = flash.flash_times(clip.video, fps), flash.beep_times(
      clip.audio
    )  # fmt: skip
    assert seen == lit / fps
    assert np.abs(heard - seen).min() < 0.02


def walk(fps, folder):
  """Encodes, decodes, trains, samples and evaluates, by the commands."""
  frames = 1 + 4 * round(0.5 * fps)
  clips, data, run = (folder / x for x in ("clips", "data", "run"))
  lit = write_clips(clips, fps, frames)

  def do(*command):
    status, text = call(*command)
    assert status == 0, text
    return text

  do(
    "encode", TINY, f"--input={clips}", f"--output={data}",
    f"--config.encode.fps={fps}", f"--config.encode.frames={frames}",
    f"--config.encode.size=({SIZE},{SIZE})", "--config.encode.num_workers=0",
    "--config.encode.video_channels=8",
  )  # fmt: skip
  metadata = records.read_metadata(data)
  m = metadata["shapes"]["audio"][0]
  assert abs(m * LATENT / RATE - frames / fps) <= 4 / fps + LATENT / RATE
  do("encode", "--decode", f"--input={data}", f"--output={folder / 'decoded'}")
  for file in (folder / "decoded").glob("*.mp4"):
    check_file(file, fps, frames, lit)
  flags = [f for f in FLAGS if not f.startswith("--config.eval")]
  do(
    "train", TINY, f"--workdir={run}", f"--config.data.path={data}", *flags,
    "--config.num_train_steps=2", "--config.eval.tasks=()",
  )  # fmt: skip
  given = {"a2v": {"audio": clips}, "v2a": {"video": clips}}
  lines = [
    {"prompt": "A face.", "task": task, "name": task}
    | {key: str(path / "0.mp4") for key, path in inputs.items()}
    for task, inputs in given.items()
  ]
  (folder / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
  do(
    "sample", f"--workdir={run}", f"--output={folder / 'out'}",
    f"--prompts={folder / 'list.jsonl'}", "--solver=euler",
  )  # fmt: skip
  for task in given:
    check_file(folder / "out" / f"{task}.mp4", fps, frames)
  do(
    "evaluate", f"--workdir={run}", f"--data={data}", f"--clips={clips}",
    f"--output={folder / 'scores'}", "--tasks=t2av", "--num=2",
    "--splits=easy",
  )  # fmt: skip
  for file in (folder / "scores" / "easy").iterdir():
    check_file(file, fps, frames)


@pytest.mark.parametrize("fps", [24000 / 1001, 60.0])
def test_a_rate_from_clips_to_scores(fps, tmp_path):
  walk(fps, tmp_path)
