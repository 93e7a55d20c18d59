"""Trains the demo's model on a mixture, and scores it as the demo is scored.

    bash launch/demo.sh
    python -m tests.bench.mixture --demo=runs/demo --output=runs/mixture

Eight of ten examples are the demo's clips. One is a sound without a picture,
one a video without sound, of two sizes (64 and 48 pixels) and two lengths (49
and 25 frames), of clips that the demo does not have. Finished parts are kept.
The defaults train on as many of the demo's clips as the demo does.
"""

import json
import pathlib
import subprocess
import sys

from absl import flags

from ccl_jax import command
from ccl_jax.data import media

DEMO = flags.DEFINE_string("demo", "runs/demo", "Folder of launch/demo.sh.")
OUTPUT = flags.DEFINE_string("output", "runs/mixture", "Folder to write.")
STEPS = flags.DEFINE_integer("steps", 5000, "Training steps.", lower_bound=1)

CONFIG = "--config=configs/ccl.py:size=tiny"
CLIPS = 300  # of each size; the first half of those of 64 pixels are sounds
SIZES = (64, 48)
COLUMNS = ("video", "speech", "audio")


def run(command: str, *arguments: str) -> None:
  """Runs a command of the package."""
  subprocess.run(
    [sys.executable, "-m", f"ccl_jax.{command}", *arguments], check=True
  )


def write_clips(output: pathlib.Path) -> None:
  """Writes the folders `sound` and `silent`, with captions."""
  captions = {"sound": [], "silent": []}
  for kind in captions:
    (output / kind).mkdir(parents=True, exist_ok=True)
  for size in SIZES:
    world = output / f"world_{size}"
    if not world.exists():
      run(
        "world", f"--output={world}", f"--size={size}", f"--num_train={CLIPS}",
        "--num_test=1",
      )  # fmt: skip
    lines = (world / "captions.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["split"] == "train"]
    for i, row in enumerate(rows[: CLIPS if size == SIZES[0] else CLIPS // 2]):
      clip = media.read_clip(world / row["file"])
      name, kind = f"{size}_{i:04}", "silent"
      if size == SIZES[0] and i < CLIPS // 2:
        kind, name = "sound", f"{name}.wav"
        media.write_wav(output / kind / name, clip.audio)
      else:
        name = f"{name}.mp4"
        video = clip.video if i % 2 else clip.video[:25]
        media.write_mp4(output / kind / name, video, 25.0)
      text = {key: row[key] for key in COLUMNS if key in row}
      captions[kind].append(json.dumps({"file": name} | text))
  for kind, lines in captions.items():
    (output / kind / "captions.jsonl").write_text("\n".join(lines) + "\n")


def encode(output: pathlib.Path, kind: str, codecs: pathlib.Path) -> str:
  """Encodes one of the folders and returns its data set."""
  shapes = tuple((n, size, size) for n in (49, 25) for size in SIZES)
  shapes = shapes if kind == "silent" else shapes[:1]
  data = output / f"{kind}_latents"
  if not data.exists():
    run(
      "encode", CONFIG, f"--input={output / kind}", f"--output={data}",
      f"--codecs={codecs}", "--config.encode.max_upscale=1.0",
      f"--config.encode.buckets={shapes}",
      f"--config.encode.need_video={kind == 'silent'}",
      f"--config.encode.need_audio={kind == 'sound'}",
    )  # fmt: skip
  return str(data)


def main() -> None:
  """Writes, encodes, trains and scores."""
  demo, output = pathlib.Path(DEMO.value), pathlib.Path(OUTPUT.value)
  latents = demo / "latents"
  if not (output / "silent" / "captions.jsonl").exists():
    write_clips(output)
  sources = [(str(latents), 8)] + [
    (encode(output, kind, latents / "codecs"), 1)
    for kind in ("sound", "silent")
  ]
  run(
    "train", CONFIG, f"--workdir={output / 'run'}", "--config.eval.tasks=()",
    f"--config.data.sources={tuple(sources)}",
    f"--config.num_train_steps={STEPS.value}", "--config.eval.split=easy",
  )  # fmt: skip
  run(
    "evaluate", f"--workdir={output / 'run'}", f"--data={latents}",
    f"--clips={demo / 'world'}", f"--output={output / 'results'}",
  )  # fmt: skip


if __name__ == "__main__":
  command.run(main, ())
