"""A run that was never trained, with random parameters, to generate with."""

import dataclasses

import jax
import numpy as np
from etils import epath

from ccl_jax.checkpoints import manager, run_config
from ccl_jax.codecs.api import Codecs
from ccl_jax.codecs.hashed_text import HashedText
from ccl_jax.codecs.linear import LinearAudioCodec, LinearVideoCodec
from ccl_jax.data import media
from ccl_jax.data.clip import ClipShape
from ccl_jax.storage import text_files
from ccl_jax.training.state import abstract_state
from tests.models import tiny
from tests.training.setups import make_config, make_setup

SHAPE = ClipShape(25.0, 5, (16, 16))
STEP, RATE, WORDS = 4, 16_000, 24
SAMPLES = round(SHAPE.frames / SHAPE.fps * RATE)
MODEL = tiny.SETTINGS | {
  "audio": tiny.SETTINGS["audio"] | {"tokens_per_frame": 5}
}


def write_inputs(folder):
  """Writes an input of each kind, none of the model's size and length.

  Returns:
    Field of a request -> path.
  """
  video, sound = noise(frames=9, size=(24, 32)), hum(1.0)
  media.write_mp4(folder / "clip.mp4", video, SHAPE.fps, sound)
  media.write_mp4(folder / "silent.mp4", video, SHAPE.fps)
  media.write_wav(folder / "hum.wav", sound)
  with media.av.open(str(folder / "clip.mp4")) as container:
    next(container.decode(video=0)).save(str(folder / "image.png"))
  names = {"image": "image.png", "audio": "hum.wav", "video": "silent.mp4"}
  return {name: str(folder / file) for name, file in names.items()}


def write(workdir, model=MODEL, sampling=None, **sections):
  """Writes the workdir of a run with random parameters; returns its path."""
  sampling = {"num_inference_steps": 2} | (sampling or {})
  config = make_config(model=model, sampling=sampling, **sections)
  setup = make_setup(model=model, **sections)
  rng = np.random.default_rng(0)
  state = jax.tree.map(
    lambda x: rng.normal(0, 0.2, x.shape).astype(x.dtype),
    abstract_state(setup),
  )
  workdir = epath.Path(workdir)
  run_config.claim(workdir, config, ())
  text_files.write_json(workdir / "clip.json", dataclasses.asdict(SHAPE))
  codecs().save(workdir / "codecs")
  checkpoints = manager.CheckpointManager(workdir)
  checkpoints.save(STEP, state)
  checkpoints.close()
  return workdir


def codecs():
  """Returns codecs fitted to noise and hum, with the channels of MODEL."""
  videos = [noise(seed=i) for i in range(8)]
  return Codecs(
    LinearVideoCodec.fit(videos, MODEL["video"]["channels"]),
    LinearAudioCodec.fit([hum(0.5)], MODEL["audio"]["channels"]),
    HashedText(MODEL["text_width"], WORDS),
  )


def noise(seed=0, frames=SHAPE.frames, size=SHAPE.size):
  """Returns frames of random bytes."""
  rng = np.random.default_rng(seed)
  return rng.integers(0, 255, (frames, *size, 3), np.uint8)


def hum(seconds):
  """Returns a tone that swells, with a little noise."""
  time = np.arange(round(seconds * RATE)) / RATE
  tone = 0.3 * np.sin(2 * np.pi * 440 * time) * (0.5 + 0.5 * time)
  rng = np.random.default_rng(0)
  return (tone + rng.normal(0, 0.01, len(time))).astype(np.float32)
