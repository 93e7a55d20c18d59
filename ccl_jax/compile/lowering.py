"""The real training and sampling steps, compiled for devices that are not here.

No arrays: shapes with shardings are lowered, libtpu compiles, and `cost` reads
what came out.
"""

import dataclasses
import functools
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ccl_jax.array_types import STREAMS, audio_per_frame
from ccl_jax.compile import topology
from ccl_jax.config import build
from ccl_jax.cost import chips, flops, report
from ccl_jax.diffusion import tasks
from ccl_jax.generation.sampling import SamplingConfig, sample_latents
from ccl_jax.training import step
from ccl_jax.training.batch import abstract_batch
from ccl_jax.training.setup import TrainSetup, flop_shape, make_setup
from ccl_jax.training.state import abstract_state, sampling_params


def compile_report(
  config: Mapping[str, Any], name: str, what: str = "train", task: str = "t2av"
) -> tuple[dict[str, Any], str]:
  """(report, compiled text) of a config on a topology.

  Raises:
    ValueError: an unknown topology, a config that does not fit it, or a program
      that does not fit the chip's memory.
  """
  slices, chip = config["mesh"].get("num_slices", 1), chips.chip_named(name)
  devices = topology.devices(name, slices)
  setup = make_setup(config, devices)
  shapes = latent_shapes(config)
  began = time.monotonic()
  lower = {"train": lower_train, "sample": lower_sample}[what]
  lowered, rows, useful = lower(config, setup, shapes, task)
  compiled = topology.compile_for(lowered)
  about = {
    "what": what,
    "topology": name,
    "slices": slices,
    "chips": chips.count_chips(devices),
    "devices": len(devices),
    "mesh": dict(setup.layout.mesh.shape),
    "batch": rows,
    "accumulate": setup.grad_accumulation_steps,
    "compile_seconds": time.monotonic() - began,
  }
  numbers = report.make_report(
    compiled.as_text(),
    compiled.memory_analysis(),
    chip=chip,
    mesh=about["mesh"],
    model_flops={
      part: value * rows / len(devices) for part, value in useful.items()
    },
    num_layers=config["model"]["num_layers"],
    activation=activation_bytes(config, setup, shapes),
    slices=slices,
  )
  return about | numbers, compiled.as_text()


def latent_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
  """One sample's latents and text, by the config's `encode` section.

  Strides of 4 x 8 x 8 with the first frame alone, and c audio latents a frame.
  """
  encode = config["encode"]
  f = 1 + (encode["frames"] - 1) // 4
  h, w = (length // 8 for length in encode["size"])
  c = audio_per_frame(encode["fps"])
  return {
    "video": (f, h, w, encode["video_channels"]),
    "audio": (c * f, encode["audio_channels"]),
    "text": (encode["text_length"], encode["text_width"]),
  }


def lower_train(config, setup: TrainSetup, shapes, task: str):
  """(lowered, samples, useful FLOPs of one by part)."""
  lowered = step.compile_step(setup).lower(
    abstract_state(setup), abstract_batch(setup, shapes)
  )
  useful = flops.train_flops(setup.model, flop_shape(setup, shapes))
  return lowered, setup.batch_size, useful


def lower_sample(config, setup: TrainSetup, shapes, task: str):
  """The same of the sampler's loop, for one clip on each shard of the batch."""
  layout, plan = setup.layout, tasks.inference_task(task)
  sampling = build(SamplingConfig, config["sampling"], "sampling")
  rows = layout.batch_shards()

  of = functools.partial(
    jax.ShapeDtypeStruct, dtype=jnp.float32, sharding=layout.rows()
  )
  text = of((rows, *shapes["text"]))
  null = {s: of((1, *shapes[s]), sharding=layout.sharding()) for s in STREAMS}
  given = {s: of((rows, *shapes[s])) for s in plan.given}
  if plan.first_frame:
    given["video"] = of((rows, 1, *shapes["video"][1:]))
  lowered = sample_latents.lower(
    sampling_params(setup),
    {s: of((rows, *shapes[s])) for s in plan.streams},
    given,
    {"text": text, "negative": text, "null": null},
    graph=setup.graph,
    task=task,
    sampling=sampling,
    layout=layout,
  )
  shape = dataclasses.replace(
    flop_shape(setup, shapes),
    batch=rows,
    times=shapes["video"][0] if plan.first_frame else 1,
  )
  work = sampling.work(plan)
  return lowered, rows, flops.sample_flops(setup.model, shape, **work)


def activation_bytes(config, setup: TrainSetup, shapes) -> int:
  """The largest stream's (b, f, s, d) of one shard, in bfloat16."""
  (f, h, w, _), model = shapes["video"], config["model"]
  tokens = shapes["audio"][0]
  if model["video"]:
    tokens = f * (h // model["video"]["patch"]) * (w // model["video"]["patch"])
  layout, section = setup.layout, model["video"] or model["audio"]
  rows = (
    setup.batch_size // setup.grad_accumulation_steps // layout.batch_shards()
  )
  return 2 * rows * tokens * section["width"] // layout.size("context")
