"""How fast latents are read:

    source launch/environment.sh; python -m tests.bench.loader [--records=66]

Records as large as the paper's (video latents 31 x 44 x 80 x 16, which are
27,280 tokens, audio 155 x 20, text up to 512 x 4096, all float16) are written
as ArrayRecord shards to a temporary folder and read back through grain, decoded
and stacked to arrays, with one thread on one core. Read are a set of this
shape; a mixture of it, sounds alone and silent videos; and buckets: this shape,
half as long, and upright. Printed for two lengths of the prompt: the encoder's
limit, and a usual one. The environment tells malloc to keep freed memory: fresh
pages cost as much as everything else together.
"""

import argparse
import os
import pathlib
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from ccl_jax.codecs.api import Codecs
from ccl_jax.codecs.hashed_text import HashedText
from ccl_jax.codecs.linear import LinearAudioCodec, LinearVideoCodec
from ccl_jax.data import records, shards
from ccl_jax.data.clip import ClipShape
from ccl_jax.data.loader import Loader

SHAPE = ClipShape(25.0, 121, (352, 640))
OTHERS = (ClipShape(25.0, 61, (352, 640)), ClipShape(25.0, 121, (640, 352)))
TEXT = (512, 4096)
GOALS = {512: 150, 128: 200}  # samples a second and core


def make_codecs() -> Codecs:
  """Codecs of the paper's sizes; what they encode does not matter here."""
  rng = np.random.default_rng(0)
  videos = rng.integers(0, 255, (4, 9, 32, 32, 3), np.uint8)
  sounds = rng.normal(0, 0.1, (4, 3 * 5 * 512)).astype(np.float32)
  return Codecs(
    LinearVideoCodec.fit(list(videos), 16),
    LinearAudioCodec.fit(list(sounds), 20),
    HashedText(TEXT[1], TEXT[0]),
  )


def write(
  path: pathlib.Path,
  num: int,
  tokens: int,
  shapes: Sequence[ClipShape] = (SHAPE,),
  lacks: Sequence[str] = (),
) -> int:
  """Writes `num` records of noise of each shape; returns their bytes.

  Args:
    lacks: streams that they do not have.
  """
  rng, codecs, total = np.random.default_rng(0), make_codecs(), 0
  below = [f"{shape}" for shape in shapes[1:]]
  for shape in reversed(shapes):
    folder = path if shape == shapes[0] else path / f"{shape}"
    schema = shards.RecordSchema.from_codecs(codecs, shape)
    with shards.writing_shard(folder, schema, "train", 0) as writer:
      for i in range(num):
        draw = {
          name: rng.standard_normal(size, np.float32)
          for name, size in schema.shapes.items()
        } | dict.fromkeys(lacks)
        text = draw.pop("text")[:tokens]
        writer.add(shards.EncodedClip(f"{i}", "train", "", text, **draw))
      total += writer.manifest.num_bytes
    codecs.save(folder / "codecs")
    own = below if folder == path else ()
    records.finalize(folder, schema, codecs, shape, buckets=own)
  return total


def write_case(
  folder: pathlib.Path, case: str, num: int, tokens: int
) -> tuple[dict[str, Any], int]:
  """Writes the sets of a case; returns a loader's arguments, and the bytes."""
  if case == "mixture":
    parts = {"both": (), "sounds": ("video",), "silent": ("audio",)}
    size = sum(
      write(folder / name, num // 3, tokens, lacks=lacks)
      for name, lacks in parts.items()
    )
    return {"sources": [(str(folder / name), 1) for name in parts]}, size
  shapes = (SHAPE, *OTHERS) if case == "buckets" else (SHAPE,)
  size = write(folder / "data", num // len(shapes), tokens, shapes)
  return {"path": folder / "data"}, size


def measure(batch: int, seconds: float, **arguments) -> float:
  """Samples a second of one core's time, in the best of five attempts."""
  # Grain's shuffle takes a millisecond where there are only a few records, and
  # nothing where there are thousands.
  loader = Loader(batch_size=batch, shuffle=False, **arguments)
  speeds, step = [], 0
  for _ in range(5):
    start, first = time.process_time(), step
    while time.process_time() - start < seconds / 5:
      loader.batch_at(step)
      step += 1
    speeds.append((step - first) * batch / (time.process_time() - start))
  return max(speeds)


def main() -> None:
  """Writes, measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--records", type=int, default=66)
  parser.add_argument("--batch", type=int, default=4)
  parser.add_argument("--seconds", type=float, default=5.0)
  flags = parser.parse_args()
  os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
  print(f"load average {os.getloadavg()[0]:.1f}")
  print(f"{'':8} {'text':>6} {'MB':>6} {'samples/s/core':>15} {'MB/s':>7} goal")
  for case in ("one set", "mixture", "buckets"):
    for tokens, goal in GOALS.items():
      with tempfile.TemporaryDirectory() as folder:
        arguments, size = write_case(
          pathlib.Path(folder), case, flags.records, tokens
        )
        each = size / flags.records / 1e6
        speed = measure(flags.batch, flags.seconds, **arguments)
      print(
        f"{case:8} {tokens:6d} {each:6.2f} {speed:15.0f} {speed * each:7.0f}"
        f" {goal:4d}"
      )


if __name__ == "__main__":
  main()
