"""A few clips of the synthetic world with their prompts and log-mels."""

from typing import NamedTuple

import numpy as np

from ccl_jax.codecs.mel import log_mel
from ccl_jax.data.encode.captions import make_prompt
from ccl_jax.data.synthetic import render
from ccl_jax.data.synthetic.scene import Scene, draw_scene, make_captions
from ccl_jax.data.synthetic.sound import render_sound

FPS = 25.0


class World(NamedTuple):
  """Parallel lists, one entry a clip."""

  scenes: list[Scene]
  prompts: list[str]
  videos: list[np.ndarray]
  sounds: list[np.ndarray]

  @property
  def mels(self) -> list[np.ndarray]:
    return [log_mel(sound[None])[0] for sound in self.sounds]


def make_world(
  num: int, hard: bool, first_seed: int = 0, style: str = "round"
) -> World:
  """`num` clips of 49 frames; sounds are padded to a full audio latent."""
  seeds = range(first_seed, first_seed + num)
  scenes = [draw_scene(seed, hard, 49 / FPS, style) for seed in seeds]
  sounds = [render_sound(scene) for scene in scenes]
  return World(
    scenes,
    [make_prompt(**make_captions(scene)) for scene in scenes],
    [render.render_video(scene) for scene in scenes],
    [np.pad(sound, (0, -len(sound) % 512)) for sound in sounds],
  )
