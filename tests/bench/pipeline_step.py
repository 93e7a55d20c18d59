"""Times a sampling step on a CPU against diffusers' WanPipeline.

    python -m tests.bench.pipeline_step [--frames=8] [--steps=3] [--runs=3]

t2v by the video stream alone, in float32: 12 layers of width 384, `frames`
latent frames of 16 x 16 tokens, 64 text tokens, one clip with classifier-free
guidance, UniPC. The pipeline has the same weights (velocities must agree) and
is given embedded prompts and noise, and asked for latents: neither side runs a
text encoder or a VAE. It makes its two passes in turn, as ours does where that
is said; else ours are one batch. Whole runs alternate, so that other load on
the machine falls on all alike; the first two, which compile, are not counted.
"""

import argparse
import os
import platform
from collections.abc import Callable

import jax
import numpy as np
import torch
from diffusers import UniPCMultistepScheduler, WanPipeline
from einops import rearrange

from ccl_jax.convert import wan
from ccl_jax.diffusion import tasks
from ccl_jax.diffusion.forward_passes import Condition
from ccl_jax.generation.sampling import sample_latents
from ccl_jax.generation.sampling_config import SamplingConfig
from ccl_jax.models import functional
from ccl_jax.params import trees
from ccl_jax.params.sharding import ONE_DEVICE
from tests.bench.train_step import measure, report
from tests.convert.loading import from_dict, load
from tests.parity.wan_dit_test import original

SIDE, LENGTH = 32, 64  # of the latents, before they are patched; of the text
SCALE, SHIFT = 5.0, 5.0
MODEL = dict(
  num_layers=12,
  text_width=256,
  dtype="float32",
  video=dict(width=384, ffn=1536, heads=6, channels=16, patch=2),
  audio=None,
  fusion=dict(kind="independent"),
)


def make_pair():
  """diffusers' random model, and our graph with its parameters."""
  torch.manual_seed(0)
  module = original(MODEL).eval().requires_grad_(False)
  arrays = {name: x.numpy() for name, x in module.state_dict().items()}
  graph, shapes = functional.describe(MODEL)
  table = wan.tables(MODEL)["diffusers"]
  params = load(from_dict(arrays), table, shapes)
  return module, graph, jax.device_put(params)


def inputs(frames: int) -> tuple[np.ndarray, np.ndarray]:
  """Noise (1, f, h, w, c), and embeddings of the prompt and the negative."""
  rng = np.random.default_rng(0)
  shapes = (
    (1, frames, SIDE, SIDE, MODEL["video"]["channels"]),
    (2, LENGTH, MODEL["text_width"]),
  )
  return tuple(rng.standard_normal(shape, np.float32) for shape in shapes)


def compare(module, graph, params, noise, text, time: int = 500) -> float:
  """Relative error of the pipeline's velocity.

  Raises:
    ValueError: it is 1e-4 or more; the two do not do the same work.
  """
  with torch.no_grad():
    theirs = module(
      to_torch(noise), torch.tensor([time]), torch.from_numpy(text[:1])
    ).sample
  ours = jax.jit(functional.velocity, static_argnums=0)(
    graph,
    params,
    {"video": noise},
    {"video": np.array([time / 1000], np.float32)},
    text[:1],
    tasks.inference_task("t2v").route(1),
  )
  ours = np.asarray(ours["video"])
  error = np.linalg.norm(ours - to_numpy(theirs)) / np.linalg.norm(ours)
  if not error < 1e-4:
    raise ValueError(f"diffusers' model differs from ours: {error=}.")
  return float(error)


def to_torch(latents: np.ndarray) -> torch.Tensor:
  return torch.from_numpy(rearrange(latents, "b f h w c -> b c f h w").copy())


def to_numpy(latents: torch.Tensor) -> np.ndarray:
  return rearrange(latents.numpy(), "b c f h w -> b f h w c")


def our_run(graph, params, noise, text, steps: int, batched: bool) -> Callable:
  """A function of nothing that gives sampled latents."""
  sampling = SamplingConfig(
    num_inference_steps=steps, shift=SHIFT, guidance="text",
    video_guidance_scale=SCALE,
    batch_passes=batched,
  )  # fmt: skip
  condition = Condition(text=text[:1], negative=text[1:])

  def run() -> np.ndarray:
    made, _ = sample_latents(
      params, {"video": noise}, {}, condition,
      graph=graph, task=tasks.inference_task("t2v"), sampling=sampling,
      layout=ONE_DEVICE,
    )  # fmt: skip
    return np.asarray(made["video"])

  return run


def their_run(module, noise, text, steps: int) -> Callable:
  """The same, by the pipeline."""
  scheduler = UniPCMultistepScheduler(
    prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=SHIFT
  )
  pipeline = WanPipeline(None, None, None, scheduler, module)
  pipeline.set_progress_bar_config(disable=True)
  latents, text = to_torch(noise), torch.from_numpy(text)

  def run() -> np.ndarray:
    made = pipeline(
      height=8 * SIDE, width=8 * SIDE, num_frames=4 * noise.shape[1] - 3,
      num_inference_steps=steps, guidance_scale=SCALE, latents=latents,
      prompt_embeds=text[:1], negative_prompt_embeds=text[1:],
      output_type="latent",
    )  # fmt: skip
    return to_numpy(made.frames)

  return run


def make_runs(module, graph, params, noise, text, steps: int) -> dict:
  """Name -> function of nothing, all from the same noise and weights."""
  ours = graph, params, noise, text, steps
  return {
    "ccl_jax": our_run(*ours, batched=True),
    "  in turn": our_run(*ours, batched=False),
    "diffusers": their_run(module, noise, text, steps),
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--frames", type=int, default=8)
  parser.add_argument("--steps", type=int, default=3)
  parser.add_argument("--runs", type=int, default=3)
  args = parser.parse_args()
  torch.set_num_threads(os.cpu_count())
  pair, given = make_pair(), inputs(args.frames)
  print(
    f"{platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}"
    f" ({jax.default_backend()}), torch {torch.__version__}"
  )
  tokens = args.frames * (SIDE // 2) ** 2
  print(f"{trees.count(pair[2]):,} parameters, {tokens} tokens, float32")
  print(f"relative error of velocities: {compare(*pair, *given):.1e}")
  runs = make_runs(*pair, *given, args.steps)
  seconds = measure(runs, args.runs)
  print("of a step:")
  report({name: s / args.steps for name, s in seconds.items()})


if __name__ == "__main__":
  main()
