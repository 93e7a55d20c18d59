"""A few clips of the synthetic world with their prompts and log-mels."""

from typing import NamedTuple

import numpy as np

from ccl_jax.codecs.mel import log_mel
from ccl_jax.data import picture, sources, synthetic

FPS = 25.0


class World(NamedTuple):
  """Parallel lists, one entry a clip."""

  scenes: list[synthetic.Scene]
  prompts: list[str]
  videos: list[np.ndarray]
  sounds: list[np.ndarray]

  @property
  def mels(self) -> list[np.ndarray]:
    return [log_mel(sound[None])[0] for sound in self.sounds]


def make_world(num: int, hard: bool, first_seed: int = 0) -> World:
  """`num` clips of 49 frames; sounds are padded to whole audio latents."""
  scenes = [
    synthetic.draw_scene(first_seed + i, hard, 49 / FPS) for i in range(num)
  ]
  sounds = [synthetic.render_sound(scene) for scene in scenes]
  return World(
    scenes,
    [sources.prompt(**synthetic.captions(scene)) for scene in scenes],
    [picture.render_picture(scene) for scene in scenes],
    [np.pad(sound, (0, -len(sound) % 512)) for sound in sounds],
  )
