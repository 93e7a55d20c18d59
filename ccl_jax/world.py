"""Makes SynchWorld, a synthetic data set of clips with exact ground truth:

    python -m ccl_jax.world --output=DIR [--num_train=1500] [--num_test=64]

The folder holds mp4 files with sound and captions.jsonl. Its splits are `train`
(half easy, half hard scenes), `easy` and `hard`; clip i of `easy` and clip i of
`hard` have the same sound. `data.synthetic.scene` describes the scenes;
--style=square makes a world of other faces and voices, for fine-tuning.

    python -m ccl_jax.world --output=DIR --speech=english

is a world of English sentences, spoken by flite; `data.synthetic.english`
describes it. phones.jsonl holds the times of each clip's phones.
"""

import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

import tqdm
from absl import flags

from ccl_jax import command
from ccl_jax.data import media
from ccl_jax.data.synthetic import english
from ccl_jax.data.synthetic.render import render_video
from ccl_jax.data.synthetic.scene import STYLES, draw_scene, make_captions
from ccl_jax.data.synthetic.sound import render_sound
from ccl_jax.processes import pools
from ccl_jax.storage.files import replacing

OUTPUT = flags.DEFINE_string(
  "output", None, "Folder to write; it must not exist."
)
NUM_TRAIN = flags.DEFINE_integer(
  "num_train", 1500, "Number of clips in the train split.", lower_bound=1
)
NUM_TEST = flags.DEFINE_integer(
  "num_test", 64, "Number of clips in each of the splits easy and hard.",
  lower_bound=0,
)  # fmt: skip
SIZE = flags.DEFINE_integer(
  "size", 64, "Height and width of the video in pixels, a multiple of 8."
)
FRAMES = flags.DEFINE_integer(
  "frames", None,
  "Frames of each clip at 25 fps, 1 + 4k, which the speech needs: at least, and"
  " by default, 49 (1.96 s), of English 81 (3.24 s).",
)  # fmt: skip
SPEECH = flags.DEFINE_enum(
  "speech", "vowels", ["vowels", "english"],
  "What is said: words of one vowel each, or English sentences, for which flite"
  " is needed (apt-get install flite).",
)  # fmt: skip
STYLE = flags.DEFINE_enum(
  "style", "round", list(STYLES),
  "Faces and voices: round ones, or square ones with each other's voices.",
)  # fmt: skip
WORKERS = flags.DEFINE_integer(
  "workers", 2, "Number of processes that render clips.", lower_bound=1
)

FPS = 25.0
DEFAULT_FRAMES = {"vowels": 49, "english": 81}
TEST_SEED = 1_000_000  # far from the training seeds


class SceneJob(NamedTuple):
  """A scene to render."""

  split: str
  seed: int
  hard: bool


def main() -> None:
  """Renders all clips into the folder, which appears when it is complete.

  Raises:
    ValueError: a size or a number of frames that cannot be encoded, a folder
      that exists, or clips that are too short.
  """
  if SIZE.value < 8 or SIZE.value % 8:
    raise ValueError(f"--size={SIZE.value}: expected a positive multiple of 8.")
  if FRAMES.value and FRAMES.value % 4 != 1:
    raise ValueError(f"--frames={FRAMES.value}: expected 1 + 4k, such as 49.")
  if SPEECH.value == "english":
    english.check_flite()
  output = Path(OUTPUT.value)
  if output.exists():
    raise ValueError(f"'{output}' exists; choose another --output.")
  jobs = list_jobs(NUM_TRAIN.value, NUM_TEST.value)
  with replacing(output) as partial, pools.Pool(WORKERS.value) as pool:
    partial.mkdir()
    make = functools.partial(
      make_clip,
      folder=partial,
      speech=SPEECH.value,
      size=SIZE.value,
      frames=FRAMES.value or DEFAULT_FRAMES[SPEECH.value],
      style=STYLE.value,
    )
    rows = pool.map(make, jobs, chunksize=8)
    found = list(tqdm.tqdm(rows, "world", len(jobs), unit=" clips"))
    for name in found[0]:
      lines = [json.dumps(row[name]) + "\n" for row in found]
      (partial / name).write_text("".join(lines))


def list_jobs(num_train: int, num_test: int) -> list[SceneJob]:
  """Returns the scenes of the splits train, easy and hard."""
  jobs = [SceneJob("train", i, bool(i % 2)) for i in range(num_train)]
  for split in ("easy", "hard"):
    seeds = range(TEST_SEED, TEST_SEED + num_test)
    jobs += [SceneJob(split, seed, split == "hard") for seed in seeds]
  return jobs


def make_clip(
  job: SceneJob, folder: Path, speech: str, size: int, frames: int, style: str
) -> dict[str, dict[str, Any]]:
  """Renders a clip to mp4; returns file of the world -> the clip's line."""
  seconds, lines = frames / FPS, {}
  name = f"{job.split}_{job.seed:07d}.mp4"
  if speech == "english":
    is_test = job.split != "train"
    clip = english.draw_clip(job.seed, job.hard, seconds, is_test, style)
    video, sound = english.render(clip, frames, FPS, size), clip.sound
    captions = english.make_captions(clip)
    phones = [[x, round(a, 3), round(b, 3)] for x, a, b in clip.phones]
    lines[english.FILE] = {"file": name, "phones": phones}
  else:
    scene = draw_scene(job.seed, job.hard, seconds, style)
    video, sound = render_video(scene, frames, FPS, size), render_sound(scene)
    captions = make_captions(scene)
  media.write_mp4(folder / name, video, FPS, sound, crf=10)
  row = {"file": name, "split": job.split} | captions
  return lines | {"captions.jsonl": row}


if __name__ == "__main__":
  command.run(main, ("output",))
