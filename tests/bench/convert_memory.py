"""Peak memory of converting a large checkpoint to PyTorch and back.

    python -m tests.bench.convert_memory [--size=1.3b] [--layers=30] \
        [--folder=/tmp/convert_memory] [--dtype=bfloat16] [--pod=64]

Writes a checkpoint of random parameters of configs/ccl.py:size=SIZE and runs
to-torch and from-torch --model=ccl, each in its own process. Prints the peak of
its resident memory (mapped files included) and its time. --layers changes the
number of layers. --pod=N writes each array in N chunks through all layers, as a
pod of N chips does, instead of row by row. The folder is removed at the end.
"""

import argparse
import functools
import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from etils import epath

from ccl_jax.checkpoints import manifest, restore, streaming
from ccl_jax.models import functional
from ccl_jax.params import trees
from ccl_jax.params.sharding import is_stacked
from ccl_jax.storage import text_files
from configs.ccl import get_config


@functools.lru_cache(1)
def draw(shape: tuple, dtype: np.dtype) -> np.ndarray:
  """Returns random numbers, the same for all rows."""
  return np.random.default_rng(0).standard_normal(shape, "f").astype(dtype)


def streamed(
  path: str, shape: tuple, dtype: np.dtype, by_row: bool
) -> streaming.StreamedArray:
  """Returns noise that is drawn when it is written."""
  by_row = by_row and is_stacked(path)

  def parts() -> Iterator:
    if by_row:
      return ((i, draw(shape[1:], dtype)) for i in range(shape[0]))
    return iter([(None, draw(shape, dtype))])

  return streaming.StreamedArray(tuple(shape), dtype, parts, by_row)


def chunks_of_a_pod(chips: int):
  """Like `streaming.chunk_shape`, with the axis after the layers split."""

  def chunk(shape, itemsize, by_row):
    axis = 1 if len(shape) > 2 else 0
    return tuple(
      max(-(-n // chips) if i == axis else n, 1) for i, n in enumerate(shape)
    )

  return chunk


def write(run: pathlib.Path, args: argparse.Namespace) -> int:
  """Writes the workdir; returns the number of parameters."""
  config = get_config(f"size={args.size}").to_dict()
  if args.layers:
    config["model"]["num_layers"] = args.layers
  if args.pod:
    streaming.chunk_shape = chunks_of_a_pod(args.pod)
  shapes = functional.describe(config["model"])[1]
  params = {
    path: streamed(path, x.shape, np.dtype(jnp.dtype(args.dtype)), not args.pod)
    for path, x in trees.flatten(shapes).items()
  }
  folder = run / "checkpoints" / "0"
  streaming.write_arrays(
    folder / restore.ITEM, {"trainable": trees.unflatten(params)}
  )
  manifest.write(epath.Path(folder))
  text_files.write_json(run / "config.json", config)
  return trees.count(shapes)


def measure(*arguments: str) -> tuple[float, float]:
  """Returns (seconds, peak GiB) of a command of ccl_jax.convert."""
  start = time.perf_counter()
  process = subprocess.Popen(
    [sys.executable, "-m", "ccl_jax.convert", *arguments]
  )
  _, status, used = os.wait4(process.pid, 0)
  if status:
    raise SystemExit(f"{arguments[0]} failed.")
  return time.perf_counter() - start, used.ru_maxrss / 2**20


def main():
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--size", default="1.3b")
  parser.add_argument("--layers", type=int)
  parser.add_argument("--folder", default="/tmp/convert_memory")
  parser.add_argument("--dtype", default="bfloat16")
  parser.add_argument("--pod", type=int)
  args = parser.parse_args()
  folder = pathlib.Path(args.folder)
  folder.mkdir(parents=True)  # It must be new, as it is removed.
  run, torch, back = (folder / name for name in ("run", "torch", "back"))
  try:
    count = write(run, args)
    print(f"{count / 1e9:.2f}e9 parameters; {vars(args)}")
    for name, *rest in (
      ("to-torch", f"--workdir={run}", f"--output={torch}",
       f"--dtype={args.dtype}"),
      ("from-torch", "--model=ccl", f"--input={torch}", f"--output={back}"),
    ):  # fmt: skip
      seconds, peak = measure(name, *rest)
      print(f"{name:10} {seconds:6.0f} s, peak {peak:.2f} GiB")
      if name == "to-torch":
        shutil.rmtree(run)  # The disk may not hold all three.
  finally:
    shutil.rmtree(folder)


if __name__ == "__main__":
  main()
