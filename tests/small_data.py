"""Six clips of noise, and flags that train a small model on them."""

import numpy as np

from ccl_jax.codecs.api import Codecs
from ccl_jax.codecs.hashed_text import HashedText
from ccl_jax.codecs.linear import LinearAudioCodec, LinearVideoCodec
from ccl_jax.data import shards
from ccl_jax.data.clip import ClipShape
from tests.data.clips import write_records

FRAMES, SIZE = 9, (16, 16)
FLAGS = [
  "--config.batch_size=4",
  "--config.model.num_layers=1",
  "--config.model.video.channels=8",
  "--config.model.video.width=24",
  "--config.model.video.heads=1",
  "--config.model.audio.width=24",
  "--config.model.audio.heads=1",
  "--config.model.video.ffn=24",
  "--config.model.audio.ffn=24",
  "--config.optimizer.schedule=constant",
  "--config.log.every_steps=1",
  "--config.eval.num_clips=1",
  "--config.eval.tasks=('a2v',)",
  "--config.sampling.num_inference_steps=2",
  "--config.sampling.guidance=none",
]
# For stage=audio.
AUDIO_FLAGS = [f for f in FLAGS if ".video." not in f and ".eval." not in f]


def write(path, lacks=()):
  """Writes them as records with their codecs; returns the path.

  Args:
    lacks: streams that the clips do not have.
  """
  rng = np.random.default_rng(0)
  videos = rng.integers(0, 255, (6, FRAMES, *SIZE, 3), np.uint8)
  sounds = rng.normal(0, 0.1, (6, 3 * 5 * 512)).astype(np.float32)
  codecs = Codecs(
    LinearVideoCodec.fit(list(videos), 8),
    LinearAudioCodec.fit(list(sounds), 8),
    HashedText(64, 32),
  )
  examples = [
    shards.EncodedClip(
      f"{i}.mp4", "validation" if i == 5 else "train", "A face.",
      codecs.text.encode("A face."),
      codecs.video.encode(videos[i : i + 1])[0],
      codecs.audio.encode(sounds[i : i + 1])[0],
    )._replace(**dict.fromkeys(lacks))
    for i in range(6)
  ]  # fmt: skip
  write_records(path, codecs, examples, shape=ClipShape(25.0, FRAMES, SIZE))
  return path
