"""Times a CPU's training step without each replacement of `ccl_jax.ops.cpu`.

    python -m tests.bench.cpu_cases [--size=tiny|mid] [--steps=N]

The steps alternate. A ratio above 1 is what the replacement saves.
"""

import argparse
import contextlib
from unittest import mock

import jax

from ccl_jax.ops import cpu
from ccl_jax.training.setup import make_setup
from ccl_jax.training.state import init_state
from tests.bench.train_step import (
  make_batch,
  measure,
  our_step,
  report,
  settings,
)

CASES = ("dot_general", "MAX_DENSE_PAIRS", "rotate", "branch")


@contextlib.contextmanager
def without(name: str):
  """Compiles as for other platforms where `cpu` has `name`."""
  original = jax.lax.platform_dependent

  def call(*args, cpu, default):
    if cpu.__qualname__.partition(".")[0] == name:
      return default(*args)
    return original(*args, cpu=cpu, default=default)

  pairs = 0 if name == "MAX_DENSE_PAIRS" else cpu.MAX_DENSE_PAIRS
  with (
    mock.patch.object(jax.lax, "platform_dependent", call),
    mock.patch.object(cpu, "MAX_DENSE_PAIRS", pairs),
  ):
    yield


def main():
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--size", choices=("tiny", "mid"), default="tiny")
  parser.add_argument("--steps", type=int, default=30)
  args = parser.parse_args()
  config = settings(args.size)
  setup, batch = make_setup(config, jax.devices()[:1]), make_batch(config)
  state, runs = init_state(setup), {}
  for name in ("ccl_jax", *CASES):
    run = our_step(setup, jax.tree.map(jax.numpy.copy, state), batch)
    with without(name):
      run()  # compiles
    runs[name] = run
  report(measure(runs, args.steps))


if __name__ == "__main__":
  main()
