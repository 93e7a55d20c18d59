"""Times our vocoder on a CPU against diffusers' with the same weights.

    python -m tests.bench.vocoder [--sizes=narrow,full] [--rounds=N] [--cores=N]

Each runs in its own process, so that peak memory is measured per program; the
calls alternate, so that other load on the machine affects both alike. Before
timing, both must give the same wave. "narrow" has an eighth of the channels and
0.5 s of sound, "full" the published 16 kHz shapes and an eighth of a second.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time

import numpy as np

SIZES = {"narrow": (192, 32), "full": (1536, 8)}  # width, frames of 16 ms
RATES, KERNELS = (4, 4, 2, 2, 2, 2), (8, 8, 4, 4, 4, 4)


def reference(width: int):
  """Returns diffusers' vocoder with random weights, not near zero."""
  import torch
  from diffusers.models.autoencoders.mmaudio_vocoder import MMAudioVocoder

  torch.manual_seed(0)
  model = MMAudioVocoder(
    num_mels=80, upsample_initial_channel=width, upsample_rates=RATES,
    upsample_kernel_sizes=KERNELS,
  )  # fmt: skip
  for name, x in model.named_parameters():
    if name.endswith(("alpha", "beta")):
      torch.nn.init.normal_(x, std=0.3)
  return model.eval().requires_grad_(False)


def theirs(width: int, weights: str, mel: np.ndarray):
  """Returns a function that runs PyTorch on `mel`; writes the weights."""
  import torch

  torch.set_num_threads(len(os.sched_getaffinity(0)))
  model = reference(width)
  np.savez(weights, **{k: v.numpy() for k, v in model.state_dict().items()})
  mel = torch.from_numpy(mel.transpose(0, 2, 1).copy())

  @torch.inference_mode()
  def call():
    return model(mel).sample[:, 0].numpy()

  return call


def ours(width: int, weights: str, mel: np.ndarray):
  """Returns the same compiled by JAX, with those weights."""
  import jax

  from ccl_jax.codecs import bigvgan
  from ccl_jax.convert.bigvgan import DIFFUSERS
  from ccl_jax.params import nnx_utils
  from tests.convert.loading import from_dict, load

  config = bigvgan.BigVGANConfig(width=width, tanh=False, bias=False)
  shapes = nnx_utils.param_shapes(bigvgan.BigVGAN, config)
  with np.load(weights) as file:
    params = load(from_dict(dict(file)), DIFFUSERS, shapes)

  @jax.jit
  def run(params, mel):
    return nnx_utils.bind(bigvgan.BigVGAN, config, params)(mel)

  start = time.perf_counter()
  compiled = run.lower(params, mel).compile()
  seconds = time.perf_counter() - start
  temporary = compiled.memory_analysis().temp_size_in_bytes / 2**20
  print(
    f"  ours compiled in {seconds:.0f} s; temporary arrays {temporary:.0f} MiB",
    file=sys.stderr,
    flush=True,
  )
  return lambda: np.asarray(compiled(params, mel))


def memory(field: str) -> float:
  """Returns MiB of this process: VmRSS now, or VmHWM at its peak."""
  with open("/proc/self/status") as file:
    line = next(line for line in file if line.startswith(field))
  return int(line.split()[1]) / 1024


def work(side: str, size: str, folder: str) -> None:
  """Runs one call in a process, then another for each line of the input."""
  width, frames = SIZES[size]
  mel = np.random.default_rng(0).normal(size=(1, frames, 80)).astype("f")
  make = {"ours": ours, "theirs": theirs}[side]
  call = make(width, f"{folder}/weights.npz", mel)
  loaded = memory("VmRSS")
  np.save(f"{folder}/{side}.npy", call())
  print("ready", flush=True)
  for _ in sys.stdin:
    start = time.perf_counter()
    call()
    print(time.perf_counter() - start, flush=True)
  print(loaded, memory("VmHWM"), flush=True)


def compare(size: str, rounds: int, folder: str) -> None:
  """Prints the times of one size; both sides take turns."""
  workers = {}
  for side in ("theirs", "ours"):
    workers[side] = subprocess.Popen(
      [sys.executable, "-m", "tests.bench.vocoder", "--work", side, size,
       folder],
      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
      # Threads that wait sleep: other load would else slow PyTorch tenfold.
      env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
    )  # fmt: skip
    workers[side].stdout.readline()
  a, b = (np.load(f"{folder}/{side}.npy") for side in workers)
  times = {side: [] for side in workers}
  for _ in range(rounds):
    for side, worker in workers.items():
      worker.stdin.write("\n")
      worker.stdin.flush()
      times[side].append(float(worker.stdout.readline()))
  print(f"{size}: width {SIZES[size][0]}, {a.size / 16_000:.3f} s of sound")
  print(f"  relative difference {np.abs(a - b).max() / np.abs(a).max():.1e}")
  for side, worker in workers.items():
    loaded, most = map(float, worker.communicate()[0].split())
    print(
      f"  {side:6}  median {np.median(times[side]) * 1e3:7.1f} ms, best"
      f" {min(times[side]) * 1e3:7.1f} ms; process {loaded:.0f} MiB before the"
      f" first call, {most:.0f} at most"
    )
  ratio = np.median(np.divide(times["ours"], times["theirs"]))
  print(f"  ours / theirs: median of rounds {ratio:.2f}", flush=True)


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument("--sizes", default="narrow,full")
  parser.add_argument("--rounds", type=int, default=7)
  parser.add_argument("--cores", type=int, help="of this machine; default all")
  parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.work:
    work(*args.work)
    return
  if args.cores:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
  for size in args.sizes.split(","):
    with tempfile.TemporaryDirectory() as folder:
      compare(size, args.rounds, folder)


if __name__ == "__main__":
  main()
