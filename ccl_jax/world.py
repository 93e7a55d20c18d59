"""Makes a synthetic world: python -m ccl_jax.world --output=DIR --train=1500 \
    --test=64

Real mp4 files with sound, and captions.jsonl. The splits: `train` (half easy,
half hard scenes), `easy` and `hard`, whose clips share their sounds one by one.
"""

import concurrent.futures
import functools
import json
import multiprocessing
from pathlib import Path

import tqdm
from absl import flags

from ccl_jax import command
from ccl_jax.data import media
from ccl_jax.data.synthetic import render
from ccl_jax.data.synthetic.scene import captions, draw_scene, render_sound
from ccl_jax.files import replacing

OUTPUT = flags.DEFINE_string("output", None, "Folder to make.")
TRAIN = flags.DEFINE_integer("train", 1500, "Training clips.", lower_bound=1)
TEST = flags.DEFINE_integer("test", 64, "Test clips, easy and hard each.")
SIZE = flags.DEFINE_integer("size", 64, "Pixels, a multiple of 8.")
FRAMES = flags.DEFINE_integer("frames", 49, "Frames, 1 + 4k, at 25 a second.")
WORKERS = flags.DEFINE_integer("workers", 2, "Processes.")

FPS = 25.0
TEST_SEED = 1_000_000  # far from the training seeds


def main() -> None:
  """Reads the flags."""
  make_world(
    Path(OUTPUT.value), TRAIN.value, TEST.value, SIZE.value, FRAMES.value,
    WORKERS.value,
  )  # fmt: skip


def make_world(
  output: Path,
  train: int,
  test: int,
  size: int = 64,
  frames: int = 49,
  workers: int = 2,
) -> None:
  """Writes the folder, whole or not at all.

  Raises:
    ValueError: the folder exists.
  """
  if output.exists():
    raise ValueError(f"'{output}' exists; choose another --output.")
  jobs = [("train", i, bool(i % 2)) for i in range(train)]
  jobs += [
    (s, TEST_SEED + i, s == "hard")
    for s in ("easy", "hard")
    for i in range(test)
  ]
  context = multiprocessing.get_context("spawn")
  with (
    replacing(output) as partial,
    concurrent.futures.ProcessPoolExecutor(workers, context) as pool,
  ):
    partial.mkdir()
    make = functools.partial(
      make_clip, folder=partial, size=size, frames=frames
    )
    rows = list(
      tqdm.tqdm(
        pool.map(make, jobs, chunksize=8),
        total=len(jobs),
        unit="clip",
        desc="world",
      )
    )
    lines = [json.dumps(row) + "\n" for row in rows]
    (partial / "captions.jsonl").write_text("".join(lines))


def make_clip(
  job: tuple[str, int, bool], folder: Path, size: int, frames: int
) -> dict[str, str]:
  """Renders one scene to mp4; returns its line of captions.jsonl."""
  split, seed, hard = job
  scene = draw_scene(seed, hard, frames / FPS)
  name = f"{split}_{seed:07d}.mp4"
  video = render.render_picture(scene, frames, FPS, size)
  media.write_mp4(folder / name, video, FPS, render_sound(scene), crf=10)
  return {"file": name, "split": split} | captions(scene)


if __name__ == "__main__":
  command.run(main, ("output",))
