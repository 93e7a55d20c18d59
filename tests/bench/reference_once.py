"""What running a reference stream once saves, counted by `cost.flops`.

    python -m tests.bench.reference_once [--steps=50] [--guidance=ucg2]

121 frames of 352 x 640, 512 text tokens, one clip.
`tests/generation/sampling_test.py` holds the formula against the products of
the program that samples.
"""

import argparse
import dataclasses

from ccl_jax.array_types import other
from ccl_jax.config import build
from ccl_jax.cost import flops
from ccl_jax.diffusion import tasks
from ccl_jax.generation.sampling import count_runs
from ccl_jax.generation.sampling_config import SamplingConfig
from configs.ccl import get_config

SHAPE = flops.Shape(31, 44, 80)


def clip_flops(size: str, task: str, **options) -> float:
  """FLOPs of sampling one clip; options are fields of `SamplingConfig`."""
  config, plan = get_config(f"size={size}"), tasks.inference_task(task)
  sampling = dataclasses.replace(
    build(SamplingConfig, config.sampling.to_dict(), "sampling"), **options
  )
  shape = SHAPE
  if plan.first_frame:
    shape = dataclasses.replace(SHAPE, times=SHAPE.frames)
  model = config.model.to_dict()
  return sum(
    flops.sample_flops(model, shape, **count_runs(sampling, plan)).values()
  )


def kept_bytes(size: str, task: str, runs: int = 1) -> int:
  """Bytes of the keys and values that stay of one clip's reference."""
  model = get_config(f"size={size}").model.to_dict()
  return sum(
    2 * 2 * runs * model["num_layers"] * model[other(s)]["width"]
    * SHAPE.frames * SHAPE.tokens_per_frame(s, model[s])
    for s in tasks.inference_task(task).given
  )  # fmt: skip


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument(
    "--steps", type=int, default=50, dest="num_inference_steps"
  )
  parser.add_argument("--guidance", default="ucg2")
  options = vars(parser.parse_args())
  for size in ("14b", "1.3b"):
    print(
      f"\n{size}, PFLOP of a clip, {options['num_inference_steps']} steps of",
      end=" ",
    )
    print(f"{options['guidance']}\n")
    print("| task | both iterated | reference once | share | keys kept, GB |")
    print("|---|---:|---:|---:|---:|")
    for task in tasks.INFERENCE_TASKS:
      again, once = (
        clip_flops(size, task, cache_reference=value, **options)
        for value in (False, True)
      )
      kept = kept_bytes(size, task) / 1e9
      print(
        f"| {task} | {again / 1e15:,.1f} | {once / 1e15:,.1f} |"
        f" {once / again:.4f} | {kept:.2f} |"
      )


if __name__ == "__main__":
  main()
