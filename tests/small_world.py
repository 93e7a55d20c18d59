"""A few clips of the world of vowels and balls, as they are and encoded."""

import json

import numpy as np

from ccl_jax.codecs.api import Codecs
from ccl_jax.codecs.hashed_text import HashedText
from ccl_jax.codecs.linear import LinearAudioCodec, LinearVideoCodec
from ccl_jax.data import media, shards
from ccl_jax.data.clip import ClipShape
from ccl_jax.data.encode.captions import make_prompt
from ccl_jax.data.synthetic.render import render_video
from ccl_jax.data.synthetic.scene import draw_scene, make_captions
from ccl_jax.data.synthetic.sound import render_sound
from tests.data.clips import write_records

SEEDS, FRAMES, CHANNELS = (1, 4, 2, 5), 49, 8
SPLITS = {"train": SEEDS, "easy": SEEDS, "ball-less": (1, 5)}


def write(path, channels=CHANNELS):
  """Writes world/ and latents/; returns both.

  Args:
    channels: of both codecs.
  """
  world, latents = path / "world", path / "latents"
  scenes = [draw_scene(seed) for seed in SEEDS]
  videos = np.stack([render_video(x, FRAMES, 25.0, 64) for x in scenes])
  sounds = np.stack([render_sound(x) for x in scenes])
  rows = [{"file": f"{x.seed}.mp4"} | make_captions(x) for x in scenes]
  world.mkdir(parents=True)
  for row, video, sound in zip(rows, videos, sounds, strict=True):
    media.write_mp4(world / row["file"], video, 25.0, sound, crf=10)
  lines = "\n".join(json.dumps(row) for row in rows)
  (world / "captions.jsonl").write_text(lines)
  codecs = Codecs(
    LinearVideoCodec.fit(list(videos), channels),
    LinearAudioCodec.fit(list(sounds), channels),
    HashedText(64, 32),
  )
  files = [row.pop("file") for row in rows]
  prompts = [make_prompt(**row) for row in rows]
  encoded = codecs.video.encode(videos), codecs.audio.encode(sounds)
  examples = [
    shards.EncodedClip(name, split, text, codecs.text.encode(text), *own)
    for split, seeds in SPLITS.items()
    for name, text, *own in zip(files, prompts, *encoded, strict=True)
    if int(name.removesuffix(".mp4")) in seeds
  ]
  write_records(
    latents, codecs, examples, shape=ClipShape(25.0, FRAMES, (64, 64))
  )
  return world, latents
