"""Small clips and a small encoded data set for the tests."""

import functools
import json

import numpy as np

from ccl_jax.codecs.api import Codecs
from ccl_jax.codecs.hashed_text import HashedText
from ccl_jax.codecs.linear import LinearAudioCodec, LinearVideoCodec
from ccl_jax.data import media, records, shards
from ccl_jax.data.clip import ClipShape

FPS, FRAMES, SIZE, RATE = 25.0, 5, (16, 24), 16_000
SAMPLES = round(FRAMES / FPS * RATE)
SHAPE = ClipShape(FPS, FRAMES, SIZE)


def clip(seed, frames=FRAMES, size=SIZE):
  """A bright disc that moves, and a sound that swells."""
  rng = np.random.default_rng(seed)
  y, x = np.mgrid[: size[0], : size[1]]
  centre = rng.uniform(0.2, 0.8, 2) * size
  step = rng.normal(size=2)
  time = np.arange(frames)[:, None, None]
  squared = (y - centre[0] - step[0] * time) ** 2
  squared = squared + (x - centre[1] - step[1] * time) ** 2
  disc = np.exp(-squared / rng.uniform(5, 40))[..., None]
  colours = rng.uniform(0, 255, (2, 3))
  video = colours[0] + (colours[1] - colours[0]) * disc
  video += rng.normal(size=video.shape) * 8
  wave = rng.normal(size=round(frames / FPS * RATE))
  swell = np.linspace(*rng.uniform(0, 0.3, 2), len(wave))
  return media.Clip(
    np.clip(video, 0, 255).astype(np.uint8), (wave * swell).astype(np.float32)
  )


def write_clips(folder, num, **kwargs):
  """mp4 files "0.mp4"... with captions.jsonl."""
  rows = []
  for i in range(num):
    video, audio = clip(i, **kwargs)
    media.write_mp4(folder / f"{i}.mp4", video, FPS, audio, RATE)
    rows.append({"file": f"{i}.mp4", "video": f"Disc {i}.", "speech": "Oh!"})
  lines = "\n".join(json.dumps(row) for row in rows)
  (folder / "captions.jsonl").write_text(lines)


@functools.cache
def codecs():
  clips = [clip(i) for i in range(16)]
  return Codecs(
    LinearVideoCodec.fit([c.video for c in clips], 8),
    LinearAudioCodec.fit([c.audio for c in clips], 6),
    HashedText(width=8, max_length=6),
  )


def example(codecs, i, split="train", **kwargs):
  video, audio = clip(i)
  fields = {
    "name": f"clip {i}",
    "split": split,
    "caption": f"A disc, {i}.",
    "text": codecs.text.encode(f"A disc, {i}."),
    "video": codecs.video.encode(video[None])[0],
    "audio": codecs.audio.encode(audio[None])[0],
  }
  return shards.EncodedClip(**(fields | kwargs))


def write_records(
  path, codecs, examples, logvar=(), shape=SHAPE, clips_per_shard=1000
):
  """A complete data set of the examples."""
  schema = shards.RecordSchema.from_codecs(codecs, shape, logvar)
  examples = list(examples)
  for split in sorted({x.split for x in examples}):
    own = [x for x in examples if x.split == split]
    for start in range(0, len(own), clips_per_shard):
      index = start // clips_per_shard
      with shards.writing_shard(path, schema, split, index) as writer:
        for each in own[start : start + clips_per_shard]:
          writer.add(each)
  codecs.save(path / "codecs")
  records.finalize(path, schema, codecs, shape)


def write_shapes(path, name, shapes, lacks=()):
  """A set of clips of several shapes, as encoding writes it; returns its path.

  Args:
    shapes: (frames, size) -> number of clips, "NAME SHAPE NUMBER".
  """
  made, folders = codecs(), {}
  for i, (frames, size) in enumerate(shapes):
    shape = ClipShape(FPS, frames, size)
    folders[path / f"{shape}" if i else path] = shape
  below = [f"{shape}" for shape in folders.values()][1:]
  for folder, shape in reversed(folders.items()):
    schema = shards.RecordSchema.from_codecs(made, shape)
    with shards.writing_shard(folder, schema, "train", 0) as writer:
      for i in range(shapes[shape.frames, shape.size]):
        video, audio = clip(i, shape.frames, shape.size)
        each = example(
          made, i, name=f"{name} {shape} {i}",
          video=made.video.encode(video[None])[0],
          audio=made.audio.encode(audio[None])[0],
        )  # fmt: skip
        writer.add(each._replace(**dict.fromkeys(lacks)))
    made.save(folder / "codecs")
    own = below if folder == path else ()
    records.finalize(folder, schema, made, shape, buckets=own)
  return path
