"""Times our training step on a CPU against the same model in PyTorch.

    python -m tests.bench.train_step [--size=tiny|mid] [--steps=N]

First the replica gets our (random) parameters and must give the same
velocities on a batch that mixes the four tasks. Then the steps alternate, ours,
eager, compiled, ours, ..., so that other load on the machine falls on all of
them alike; each one draws its tasks, times and noise, and does the forward and
backward passes, clipping, AdamW and the moving average, in float32.
"""

import argparse
import functools
import os
import platform
import shutil
import time

import jax
import numpy as np
import torch

from ccl_jax.array_types import STREAMS
from ccl_jax.convert import ccl
from ccl_jax.convert.state_dict import iter_state_dict
from ccl_jax.convert.torch_model import CCL
from ccl_jax.diffusion import tasks
from ccl_jax.models import functional
from ccl_jax.params import trees
from ccl_jax.training import step
from ccl_jax.training.setup import TrainSetup, make_setup
from ccl_jax.training.state import init_state, state_params
from configs.ccl import get_config
from tests.bench.torch_trainer import Trainer
from tests.models.tiny import randomize

FRAMES, SIDE = 13, 8  # 49 frames of 64 x 64 in latents


def settings(size: str) -> dict:
  """The config of a size: `tiny`'s own, or wider and deeper."""
  config = get_config("size=tiny")
  config.unlock()
  if size == "mid":
    config.batch_size, config.model.num_layers = 4, 4
    config.model.video.update(width=256, ffn=1024, heads=8)
    config.model.audio.update(width=128, ffn=512, heads=4)
  return config.to_dict()


def make_batch(config: dict) -> dict[str, np.ndarray]:
  """Random latents and text of the config's sizes."""
  b, encode = config["batch_size"], config["encode"]
  length, width = encode["text_length"], encode["text_width"]
  m = int(FRAMES * config["model"]["audio"]["tokens_per_frame"])
  shapes = {
    "video": (b, FRAMES, SIDE, SIDE, encode["video_channels"]),
    "audio": (b, m, encode["audio_channels"]),
    "text": (b, length, width),
    "null_text": (length, width),
  }
  rng = np.random.default_rng(0)
  batch = {k: rng.standard_normal(s, np.float32) for k, s in shapes.items()}
  return batch | {f"has_{s}": np.ones(b, bool) for s in STREAMS}


def make_replica(config: dict, params) -> CCL:
  """The PyTorch model with these parameters."""
  model, table = CCL(config["model"]), ccl.table(config["model"])
  model.load_state_dict(
    to_torch(dict(iter_state_dict(params, table))), strict=True
  )
  return model


def compare(config: dict, setup: TrainSetup, batch: dict) -> dict[str, float]:
  """Relative error of the replica's velocities, by stream.

  Raises:
    ValueError: one is 1e-4 or more; the two do not do the same work.
  """
  params = randomize(functional.init_params(config["model"], jax.random.key(0)))
  task = np.arange(config["batch_size"]) % 4
  ones = np.ones(len(task), bool)
  route = tasks.route_of(jax.numpy.asarray(task), ones, ones)
  state = {s: batch[s] for s in STREAMS}
  time = np.linspace(0.1, 0.9, len(task), dtype=np.float32)
  t = {s: np.where(route.is_generated[s], time, 0) for s in state}
  ours = jax.jit(functional.velocity, static_argnums=0)(
    setup.plan.graph, params, state, t, batch["text"], route
  )
  given = (state, t, {"text": batch["text"]}, route._asdict())
  state, t, text, flags = (to_torch(a) for a in given)
  with torch.no_grad():
    theirs = make_replica(config, params)(state, t, text["text"], flags)
  errors = {}
  for s, x in ours.items():
    x, y = np.asarray(x), theirs[s].numpy()
    errors[s] = float(np.linalg.norm(x - y) / np.linalg.norm(x))
  if not max(errors.values()) < 1e-4:
    raise ValueError(f"the replica differs from our model: {errors=}.")
  return errors


def to_torch(arrays: dict) -> dict:
  return jax.tree.map(lambda a: torch.from_numpy(np.array(a)), arrays)


def our_step(setup: TrainSetup, state, batch: dict):
  """A function of nothing that does one step and waits for it."""
  compiled = step.compile_step(setup)
  state, batch = [state], jax.device_put(batch)

  def run():
    state[0], metrics = compiled(state[0], batch)
    jax.block_until_ready((state[0], metrics))

  return run


def make_steps(config: dict, setup: TrainSetup, batch: dict) -> dict:
  """Name -> function of nothing, all from the same parameters."""
  state = init_state(setup)
  params = state_params(state)
  runs = {
    "ccl_jax": our_step(setup, jax.tree.map(jax.numpy.copy, state), batch)
  }
  kinds = {"torch eager": False}
  if shutil.which("g++"):
    kinds["torch.compile"] = True
  for name, compiled in kinds.items():
    trainer = Trainer(
      make_replica(config, params), config["objective"], config["optimizer"],
      compiled,
    )  # fmt: skip
    runs[name] = functools.partial(trainer.step, to_torch(batch))
  return runs


def measure(runs: dict, steps: int) -> dict[str, np.ndarray]:
  """Name -> (steps, 2) seconds, on the wall and of all cores' work.

  The first two steps, which compile, are not counted.
  """
  seconds = {name: [] for name in runs}
  for _ in range(steps + 2):
    for name, run in runs.items():
      wall, work = time.perf_counter(), time.process_time()
      run()
      ends = time.perf_counter() - wall, time.process_time() - work
      seconds[name].append(ends)
  return {name: np.array(s[2:]) for name, s in seconds.items()}


def report(seconds: dict[str, np.ndarray]) -> None:
  """Prints medians, and the ratio of wall times to ours."""
  ours = np.median(seconds["ccl_jax"][:, 0])
  print(f"{'':14}   median s      min s      cpu s  / ccl_jax")
  for name, s in seconds.items():
    wall, work = np.median(s, axis=0)
    row = wall, s[:, 0].min(), work, wall / ours
    print(f"{name:14}" + "".join(f"{value:11.3f}" for value in row))


def main():
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--size", choices=("tiny", "mid"), default="tiny")
  parser.add_argument("--steps", type=int, default=8)
  args = parser.parse_args()
  torch.set_num_threads(os.cpu_count())
  config = settings(args.size)
  setup = make_setup(config, jax.devices()[:1])
  batch = make_batch(config)
  print(
    f"{platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}"
    f" ({jax.default_backend()}), torch {torch.__version__}"
  )
  count = trees.count(setup.plan.shapes)
  print(
    f"{args.size}: batch {config['batch_size']}, {count:,} parameters, float32"
  )
  print(f"relative error of velocities: {compare(config, setup, batch)}")
  report(measure(make_steps(config, setup, batch), args.steps))


if __name__ == "__main__":
  main()
