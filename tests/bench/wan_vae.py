"""Times the Wan autoencoder on a CPU against diffusers' with the same weights.

    python -m tests.bench.wan_vae [--size=64] [--frames=5] [--repeats=3]

The published sizes, random weights, float32. Each of the two programs runs in
its own process, so that memory is measured per program; they take turns, so
that other load on the machine affects both alike. Peak memory is measured per
call, and includes the weights (508 MB) and the libraries.
"""

import argparse
import functools
import multiprocessing
import os
import pathlib
import tempfile
import time

import numpy as np

TASKS = ("encode", "decode")


def arguments(size: int, frames: int) -> dict[str, np.ndarray]:
  """Returns a clip and latents as numpy arrays."""
  rng = np.random.default_rng(0)
  f, side = 1 + frames // 4, size // 8
  return {
    "encode": rng.uniform(-1, 1, (1, frames, size, size, 3)).astype("float32"),
    "decode": rng.standard_normal((1, f, side, side, 16), np.float32),
  }


def theirs(folder: pathlib.Path, tasks: dict[str, np.ndarray]):
  """Returns task -> function, after writing the weights."""
  import torch
  from diffusers import AutoencoderKLWan

  torch.manual_seed(0)
  torch.set_grad_enabled(False)
  torch.set_num_threads(os.cpu_count())
  model = AutoencoderKLWan().eval()
  for name, p in model.named_parameters():
    noise = 0.3 * torch.randn_like(p)
    p.copy_(p + (noise if name.endswith(("gamma", "bias")) else 0))
  model.save_pretrained(folder)
  mean = torch.tensor(model.config.latents_mean)[:, None, None, None]
  std = torch.tensor(model.config.latents_std)[:, None, None, None]
  video, latents = (
    torch.from_numpy(tasks[task]).permute(0, 4, 1, 2, 3).contiguous()
    for task in TASKS
  )

  def encode():
    return (model.encode(video).latent_dist.mean - mean) / std

  def decode():
    return model.decode(latents * std + mean).sample

  def ours_way(run):
    return run().permute(0, 2, 3, 4, 1).numpy()

  return {
    "encode": functools.partial(ours_way, encode),
    "decode": functools.partial(ours_way, decode),
  }


def ours(folder: pathlib.Path, tasks: dict[str, np.ndarray]):
  """Returns task -> function, with the weights of diffusers' folder."""
  import jax

  from ccl_jax.codecs import wan_vae
  from ccl_jax.convert import wan_vae as tables
  from ccl_jax.convert.torch_files import open_state_dict
  from ccl_jax.params import nnx_utils
  from tests.convert.loading import load

  shapes = nnx_utils.param_shapes(wan_vae.Autoencoder, wan_vae.PUBLISHED)
  params = load(open_state_dict(folder), tables.DIFFUSERS, shapes)
  runs = {
    "encode": jax.jit(lambda params, x: wan_vae.encode(params, x)[0]),
    "decode": jax.jit(lambda params, x: wan_vae.decode(params, x)),
  }
  return {
    task: lambda task=task: np.asarray(runs[task](params, tasks[task]))
    for task in TASKS
  }


def worker(make, pipe, folder: pathlib.Path, size: int, frames: int) -> None:
  """Runs the tasks that the pipe sends, until it sends None."""
  runs = make(folder, arguments(size, frames))
  pipe.send("ready")
  while (task := pipe.recv()) is not None:
    # Resets the peak.
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    began = time.perf_counter()
    result = runs[task]()
    pipe.send((time.perf_counter() - began, peak(), result))


def peak() -> int:
  """Returns the peak of this process's resident memory, in bytes."""
  status = pathlib.Path("/proc/self/status").read_text()
  line = next(x for x in status.splitlines() if x.startswith("VmHWM"))
  return 1024 * int(line.split()[1])


def measure(size: int, frames: int, repeats: int, folder: pathlib.Path):
  """Returns (program, task) -> list of (seconds, peak, result)."""
  context = multiprocessing.get_context("spawn")
  pipes = {}
  for name, make in (("diffusers", theirs), ("ccl_jax", ours)):
    pipes[name], end = context.Pipe()
    args = (make, end, folder, size, frames)
    context.Process(target=worker, args=args, daemon=True).start()
    pipes[name].recv()
  found = {(name, task): [] for task in TASKS for name in pipes}
  for _ in range(repeats + 1):
    for name, task in found:
      pipes[name].send(task)
      found[name, task].append(pipes[name].recv())
  for pipe in pipes.values():
    pipe.send(None)
  return {key: runs[1:] for key, runs in found.items()}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--size", type=int, default=64)
  parser.add_argument("--frames", type=int, default=5)
  parser.add_argument("--repeats", type=int, default=3)
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    found = measure(args.size, args.frames, args.repeats, pathlib.Path(folder))
  print(f"{args.frames} frames of {args.size} x {args.size}, float32")
  print(f"{'':18}  median s     min s   peak MB    / ours")
  for task in TASKS:
    wanted = found["diffusers", task][-1][2]
    error = np.abs(found["ccl_jax", task][-1][2] - wanted).max()
    median = {
      name: np.median([run[0] for run in found[name, task]])
      for name in ("ccl_jax", "diffusers")
    }
    for name, seconds in median.items():
      runs = found[name, task]
      row = seconds, min(run[0] for run in runs)
      most = max(run[1] for run in runs) / 1e6
      ratio = seconds / median["ccl_jax"]
      print(f"{task} {name:11}" + "".join(f"{x:10.3f}" for x in row), end="")
      print(f"{most:10.0f}{ratio:10.2f}")
    print(f"{task} error {error / np.abs(wanted).max():.1e} of the largest")


if __name__ == "__main__":
  main()
