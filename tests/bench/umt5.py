"""Times our umT5 layers on a CPU against transformers'.

    python -m tests.bench.umt5 [--width=1024] [--rows=4] [--length=256]

Both have the same random weights, the same rows, half of them padded, and must
give the same vectors. The calls alternate, ours, theirs, ours, ..., so that
other load on the machine affects both alike. Memory is the peak during a call
minus the memory before it.
"""

import argparse
import ctypes
import os
import pathlib
import platform
import time

import jax
import numpy as np
import torch

from ccl_jax.codecs import umt5
from ccl_jax.convert.torch_files import from_torch
from ccl_jax.convert.umt5 import TRANSFORMERS
from ccl_jax.params import nnx_utils
from tests.convert.loading import load
from tests.parity.redraw import redraw
from tests.parity.umt5_test import original

PROCESS = pathlib.Path("/proc/self")


def memory(field: str) -> int:
  """Returns bytes of this process: "VmRSS" now, "VmHWM" at its peak."""
  lines = (PROCESS / "status").read_text().splitlines()
  found = next(line for line in lines if line.startswith(field))
  return 1024 * int(found.split()[1])


def call(run) -> tuple[float, float, np.ndarray]:
  """Returns (seconds, MiB at the peak, result) of one call."""
  ctypes.CDLL(None).malloc_trim(0)  # Returns free memory to the system.
  (PROCESS / "clear_refs").write_text("5")  # Resets the peak.
  held, start = memory("VmRSS"), time.perf_counter()
  result = run()
  seconds = time.perf_counter() - start
  return seconds, (memory("VmHWM") - held) / 2**20, result


def make_runs(s: umt5.UMT5Config, ids: np.ndarray, lengths: np.ndarray) -> dict:
  """Returns name -> function without arguments that returns (b, l, d)."""
  model = redraw(original(s))
  shapes = nnx_utils.param_shapes(umt5.UMT5, s)
  params = load(from_torch(model.state_dict()), TRANSFORMERS, shapes)
  mask = np.arange(ids.shape[1]) < lengths[:, None]
  inputs = torch.from_numpy(ids).long(), torch.from_numpy(mask).long()

  def ours():
    return np.asarray(umt5.encode(params, ids, lengths, config=s))

  def theirs():
    with torch.inference_mode():
      x = model(input_ids=inputs[0], attention_mask=inputs[1]).last_hidden_state
    return np.where(mask[..., None], x.numpy(), 0)

  return {"ccl_jax": ours, "transformers": theirs}


def measure(runs: dict, steps: int) -> dict[str, np.ndarray]:
  """Returns name -> (steps, 2) seconds and MiB, without the first two calls.

  Raises:
    ValueError: the results differ.
  """
  figures: dict[str, list] = {name: [] for name in runs}
  for _ in range(steps + 2):
    results = []
    for name, run in runs.items():
      *figure, result = call(run)
      figures[name].append(figure)
      results.append(result)
  ours, theirs = results
  error = np.abs(ours - theirs).max() / np.abs(theirs).max()
  if not error < 1e-4:
    raise ValueError(f"the two differ: relative {error=}.")
  print(f"relative error {error:.1e}")
  return {name: np.array(x[2:]) for name, x in figures.items()}


def main():
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  for name, default in dict(
    width=1024, layers=2, rows=4, length=256, steps=8
  ).items():
    parser.add_argument(f"--{name}", type=int, default=default)
  args = parser.parse_args()
  torch.set_num_threads(os.cpu_count())
  s = umt5.UMT5Config(
    vocab=1000, width=args.width, ffn=args.width * 5 // 2,
    heads=args.width // 64, layers=args.layers, dtype="float32",
    param_dtype="float32",
  )  # fmt: skip
  rng = np.random.default_rng(0)
  ids = rng.integers(2, s.vocab, (args.rows, args.length)).astype(np.int32)
  lengths = np.full(args.rows, args.length, np.int32)
  lengths[::2] = args.length // 3
  print(
    f"{platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__},"
    f" torch {torch.__version__}; {args}, float32"
  )
  figures = measure(make_runs(s, ids, lengths), args.steps)
  ours = np.median(figures["ccl_jax"][:, 0])
  print(f"{'':14}   median s      min s   peak MiB  / ccl_jax")
  for name, x in figures.items():
    row = np.median(x[:, 0]), x[:, 0].min(), np.median(x[:, 1])
    row = *row, row[0] / ours
    print(f"{name:14}" + "".join(f"{value:11.3f}" for value in row))


if __name__ == "__main__":
  main()
