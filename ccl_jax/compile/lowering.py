"""Compiles the real training and sampling steps for devices that are elsewhere.

Nothing is allocated: shapes with shardings are lowered, libtpu compiles, and
`cost` reads the compiled program.
"""

import functools
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ccl_jax.array_types import STREAMS, audio_per_frame, audio_starts
from ccl_jax.compile import topology
from ccl_jax.config import build
from ccl_jax.cost import chips, flops, report
from ccl_jax.diffusion import tasks
from ccl_jax.diffusion.forward_passes import Condition
from ccl_jax.generation.sampling import count_runs, sample_latents
from ccl_jax.generation.sampling_config import SamplingConfig
from ccl_jax.models.plan import ModelPlan, make_plan, sampling_params
from ccl_jax.params.sharding import make_layout
from ccl_jax.training import step, xla_options
from ccl_jax.training.batch import abstract_batch
from ccl_jax.training.setup import flop_shape, make_setup
from ccl_jax.training.state import abstract_state

Shapes = Mapping[str, tuple[int, ...]]


class Lowered(NamedTuple):
  """A program that is ready to compile.

  Attributes:
    program: from `jax.jit(...).lower`.
    batch_size: samples that it runs on, in `parts` equal parts.
    model_flops: useful FLOPs of one sample, by part of the model.
  """

  program: Any
  plan: ModelPlan
  batch_size: int
  parts: int
  model_flops: Mapping[str, float]


def compile_report(
  config: Mapping[str, Any],
  name: str,
  program: str = "train",
  task: str = "t2av",
) -> tuple[dict[str, Any], str]:
  """Compiles a config's program for a topology.

  Args:
    name: of the topology, "v5p:4x4x4".
    program: "train" or "sample".
    task: inference task, to sample.

  Returns:
    The figures of `cost.report`, and the compiled program's text.

  Raises:
    ValueError: an unknown topology, a config that does not fit it, or a program
      that does not fit the chip's memory.
  """
  slices, chip = config["mesh"].get("num_slices", 1), chips.chip_named(name)
  devices = topology.devices(name, slices)
  shapes = latent_shapes(config)
  began = time.monotonic()
  lower = {"train": lower_train, "sample": lower_sample}[program]
  lowered = lower(config, devices, shapes, task)
  compiled = topology.compile_for(lowered.program)
  rows, mesh = lowered.batch_size, lowered.plan.layout.mesh
  about = {
    "program": program,
    "topology": name,
    "slices": slices,
    "chips": chips.count_chips(devices),
    "devices": len(devices),
    "mesh": dict(mesh.shape) if mesh else {},
    "batch_size": rows,
    "parts": lowered.parts,
    "compile_seconds": time.monotonic() - began,
  }
  numbers = report.make_report(
    compiled.as_text(),
    compiled.memory_analysis(),
    chip=chip,
    mesh=about["mesh"],
    model_flops={
      part: value * rows / len(devices)
      for part, value in lowered.model_flops.items()
    },
    num_layers=lowered.plan.num_layers,
    activation=activation_bytes(lowered, shapes),
    slices=slices,
  )
  return about | numbers, compiled.as_text()


def latent_shapes(config: Mapping[str, Any]) -> Shapes:
  """Returns the shapes of one sample, from the config's `encode` section.

  It is a clip of the first bucket: latents with strides of 4 x 8 x 8, the first
  frame alone, and as many audio latents as these frames need.
  """
  encode = config["encode"]
  frames, *size = (
    *encode.get("buckets", ()),
    (encode["frames"], *encode["size"]),
  )[0]
  f = 1 + (frames - 1) // 4
  h, w = (length // 8 for length in size)
  m = int(audio_starts(f, audio_per_frame(encode["fps"]))[-1])
  return {
    "video": (f, h, w, encode["video_channels"]),
    "audio": (m, encode["audio_channels"]),
    "text": (encode["text_length"], encode["text_width"]),
  }


def lower_train(
  config: Mapping[str, Any], devices: Sequence[Any], shapes: Shapes, task: str
) -> Lowered:
  """Lowers the training step; the task plays no part."""
  setup = make_setup(config, devices)
  xla_options.check_options(setup.compiler_options, devices[0])
  return Lowered(
    step.compile_step(setup).lower(
      abstract_state(setup), abstract_batch(setup, shapes)
    ),
    setup.plan,
    setup.batch_size,
    setup.grad_accumulation_steps,
    flops.train_flops(setup.plan.settings, flop_shape(setup, shapes)),
  )


def lower_sample(
  config: Mapping[str, Any], devices: Sequence[Any], shapes: Shapes, task: str
) -> Lowered:
  """Lowers the sampler's loop, for one clip on each shard of the batch."""
  layout = make_layout(config["mesh"], config["sharding"], devices)
  plan, task = make_plan(config["model"], layout), tasks.inference_task(task)
  sampling = build(SamplingConfig, config["sampling"], "sampling")
  rows = layout.batch_shards()
  array = functools.partial(
    jax.ShapeDtypeStruct, dtype=jnp.float32, sharding=layout.rows()
  )
  text = array((rows, *shapes["text"]))
  null = {
    s: array((1, *shapes[s]), sharding=layout.sharding()) for s in STREAMS
  }
  given = {s: array((rows, *shapes[s])) for s in task.given}
  if task.first_frame:
    given["video"] = array((rows, 1, *shapes["video"][1:]))
  program = sample_latents.lower(
    sampling_params(plan),
    {s: array((rows, *shapes[s])) for s in task.streams},
    given,
    Condition(text=text, negative=text, null=null),
    graph=plan.graph,
    task=task,
    sampling=sampling,
    layout=layout,
  )
  f, h, w, _ = shapes["video"]
  times = f if task.first_frame else 1
  shape = flops.Shape(f, h, w, shapes["text"][0], batch=rows, times=times)
  useful = flops.sample_flops(
    plan.settings, shape, **count_runs(sampling, task)
  )
  return Lowered(program, plan, rows, 1, useful)


def activation_bytes(lowered: Lowered, shapes: Shapes) -> int:
  """Returns the bytes of the largest stream's (b, f, s, d) in bfloat16.

  Of the rows and frames that one shard holds at once.
  """
  (f, h, w, _), model = shapes["video"], lowered.plan.settings
  tokens = shapes["audio"][0]
  if model["video"]:
    patch = model["video"]["patch"]
    tokens = f * (h // patch) * (w // patch)
  layout, section = lowered.plan.layout, model["video"] or model["audio"]
  rows = -(-lowered.batch_size // (lowered.parts * layout.batch_shards()))
  return 2 * rows * tokens * section["width"] // layout.size("context")
