"""How fast latents are read:

    source launch/environment.sh; python -m tests.bench.loader [--records=64]

Records as large as the paper's (video latents 31 x 44 x 80 x 16, which are
27,280 tokens, audio 155 x 20, text up to 512 x 4096, all float16) are written
as ArrayRecord shards to a temporary folder and read back through grain, decoded
and stacked to arrays, with one thread on one core. Printed for two lengths of
the prompt: the encoder's limit, and a usual one. The environment tells malloc
to keep freed memory: fresh pages cost as much as everything else together.
"""

import argparse
import os
import pathlib
import tempfile
import time

import numpy as np

from ccl_jax.codecs.api import Codecs
from ccl_jax.codecs.hashed_text import HashedText
from ccl_jax.codecs.linear import LinearAudioCodec, LinearVideoCodec
from ccl_jax.data import records, shards
from ccl_jax.data.clip import ClipShape
from ccl_jax.data.loader import Loader

SHAPE = ClipShape(25.0, 121, (352, 640))
TEXT = (512, 4096)
GOAL = 200  # samples a second and core


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


def write(path: pathlib.Path, num: int, tokens: int) -> None:
  """`num` records of noise."""
  rng, codecs = np.random.default_rng(0), make_codecs()
  schema = shards.RecordSchema.from_codecs(codecs, SHAPE)
  with shards.writing_shard(path, schema, "train", 0) as writer:
    for i in range(num):
      draw = {
        name: rng.standard_normal(shape, np.float32)
        for name, shape in schema.shapes.items()
      }
      text = draw.pop("text")[:tokens]
      writer.add(shards.EncodedClip(f"{i}", "train", "", text, **draw))
  records.finalize(path, schema, codecs, SHAPE)


def measure(path: pathlib.Path, batch: int, seconds: float) -> float:
  """Samples a second of one core's time, in the best of five attempts."""
  # Grain's shuffle takes a millisecond where there are only a few records, and
  # nothing where there are thousands.
  loader = Loader(path, batch_size=batch, shuffle=False)
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
  parser.add_argument("--records", type=int, default=64)
  parser.add_argument("--batch", type=int, default=4)
  parser.add_argument("--seconds", type=float, default=5.0)
  flags = parser.parse_args()
  os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
  print(f"{'text':>6} {'MB':>6} {'samples/s/core':>15} {'MB/s':>7}")
  for tokens in (TEXT[0], 128):
    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder) / "data"
      write(path, flags.records, tokens)
      size = sum(f.stat().st_size for f in path.glob("*array_record*"))
      each = size / flags.records / 1e6
      speed = measure(path, flags.batch, flags.seconds)
    print(f"{tokens:6d} {each:6.2f} {speed:15.0f} {speed * each:7.0f}")
  print(f"goal: {GOAL} samples/s/core")


if __name__ == "__main__":
  main()
