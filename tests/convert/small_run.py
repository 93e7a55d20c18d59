"""A workdir as training leaves it, of the smallest joint model."""

import json

import jax
import ml_dtypes
import numpy as np

from ccl_jax.checkpoints import manager
from ccl_jax.models import functional
from ccl_jax.params import trees
from ccl_jax.params.sharding import ONE_DEVICE
from ccl_jax.storage import text_files
from tests import runs
from tests.models import tiny
from tests.training import setups

STEPS = (1, 2, 5)
_describe, _known = functional.describe, {}


def described(settings, layout=ONE_DEVICE, lora=functional.NO_LORA):
  key = json.dumps(settings, sort_keys=True), layout, lora
  if key not in _known:
    _known[key] = _describe(settings, layout, lora)
  return _known[key]


def draw(seed, settings=tiny.SETTINGS):
  """Random parameters; those of the audio stream are bfloat16."""
  rng = np.random.default_rng(seed)
  leaves = trees.flatten(described(settings)[1])
  return trees.unflatten(
    {
      path: rng.standard_normal(x.shape, np.float32).astype(
        ml_dtypes.bfloat16 if path.startswith("audio") else np.float32
      )
      for path, x in leaves.items()
    }
  )


def params(step, average=True):
  """Returns the parameters in `write`'s checkpoints; audio is frozen."""
  found = draw(0)
  if not average:
    return found | {s: draw(step)[s] for s in ("video", "fusion")}
  return found | {s: draw(10 * step)[s] for s in ("video", "fusion")}


def write(workdir):
  """Three checkpoints, config, clip and codecs; returns the workdir."""
  config = setups.make_config()
  text_files.write_json(workdir / "config.json", config)
  clip = {"fps": 25.0, "frames": 9, "size": [16, 24]}
  text_files.write_json(workdir / "clip.json", clip)
  runs.codecs().save(workdir / "codecs")
  checkpoints = manager.CheckpointManager(workdir, save_interval_steps=1)
  for step in STEPS:
    last, mean = params(step, average=False), params(step)
    state = {
      "step": np.asarray(step),
      "frozen": {"audio": last.pop("audio")},
      "trainable": last,
      "ema": {s: mean[s] for s in last},
    }
    checkpoints.save(step, jax.tree.map(jax.numpy.asarray, state))
  checkpoints.close()
  return workdir
