"""Setups of the smallest joint model, for tests of all that surrounds it."""

import jax

from ccl_jax.training import setup
from configs.ccl import get_config
from tests.models import tiny


def make_config(**sections) -> dict:
  """The tiny config with `tiny.SETTINGS`; sections are updated, or replaced."""
  config = get_config("size=tiny").to_dict()
  config |= {
    "model": tiny.SETTINGS,
    "batch_size": 8,
    "num_train_steps": 10,
    "seed": 3,
  }
  config["optimizer"] |= {
    "learning_rates": ((".*", 1e-2),),
    "warmup_steps": 2,
    "ema_decay": 0.9,
  }
  for name, value in sections.items():
    old = config.get(name)
    is_section = isinstance(old, dict) and isinstance(value, dict)
    config[name] = old | value if is_section else value
  return config


def make_setup(devices=None, **sections) -> setup.TrainSetup:
  """`setup.make_setup` of such a config, by default on one device."""
  devices = jax.devices()[:1] if devices is None else devices
  return setup.make_setup(make_config(**sections), devices)
