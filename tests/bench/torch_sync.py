"""Compares the samples of PyTorch and of JAX for one run.

    python -m tests.bench.torch_sync --workdir=RUN --data=LATENTS \
        [--clips=WORLD] [--num=32] [--splits=easy] [--tasks=a2v,v2a] \
        [--lora=FILE]

Exports the run to a temporary folder and samples held-out clips of the
synthetic world with `convert.torch_sampling`: from its own noise, which may
differ from JAX's result by sampling noise, and from JAX's noise, which must
give the same latents (the relative error is printed). Flags and tables are
those of `ccl_jax.evaluate`; the same codecs decode. With --lora, both add a
file of `to-torch --component=lora` to the run.
"""

import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from absl import flags

from ccl_jax import command, evaluate
from ccl_jax.convert import export
from ccl_jax.convert.torch_model import CCL
from ccl_jax.convert.torch_sampling import sample
from ccl_jax.data.loader import read_clips
from ccl_jax.diffusion import flow, tasks
from ccl_jax.generation import requests, stages
from ccl_jax.generation.pipeline import Pipeline
from ccl_jax.generation.scored_worlds import open_world
from ccl_jax.metrics import tables

LORA = flags.DEFINE_string("lora", None, "File of to-torch --component=lora.")


def compare() -> None:
  """Prints the table of every split."""
  loras = [LORA.value] if LORA.value else []
  pipeline = Pipeline.load(
    evaluate.WORKDIR.value, evaluate.STEP.value, loras=loras
  )
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "export"
    export.to_torch(evaluate.WORKDIR.value, path, step=pipeline.step)
    model = CCL.from_pretrained(path)
  for file in loras:
    model.load_lora(file)
  world = open_world(pipeline, evaluate.CLIPS.value)
  for split in evaluate.SPLITS.value:
    clips = read_clips(evaluate.DATA.value, split, evaluate.NUM.value)
    measured = {(name,): x for name, x in world.references(clips).items()}
    for task in evaluate.TASKS.value:
      given = tasks.inference_task(task).given
      for name, made in sample_all(pipeline, model, task, clips).items():
        decoded = stages.decode(pipeline, made)
        measured[f"{task} ({name})",] = world.measure(clips, decoded, given)
    rows = evaluate.score_settings(measured)
    title = f"{split}, {len(clips['name'])} clips, step {pipeline.step}"
    print(f"### {title}\n\n{tables.table(rows)}\n")


def sample_all(
  pipeline: Pipeline, model: CCL, task: str, clips: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
  """Returns name -> latents of a task."""
  num, plan = len(clips["name"]), tasks.inference_task(task)
  keys = jax.vmap(jax.random.key)(jnp.arange(num, dtype=jnp.uint32))
  noise = flow.draw_noise(keys, pipeline.shape.latent_shapes(pipeline.codecs))
  noise = {s: to_torch(noise[s]) for s in plan.streams}
  given = {s: to_torch(clips[s]) for s in plan.given}
  texts = to_torch(clips["text"]), to_torch(clips["null_text"])
  same = sample(model, task, *texts, given=given, noise=noise)
  batches = pipeline.generate(  # of one clip each on a CPU
    requests.from_clips(plan, clips), batch_size=num,
    finish=lambda batch, latents, shares: [latents],
  )  # fmt: skip
  expected = {s: np.concatenate([x[s] for x in batches]) for s in noise}
  errors = {s: relative_error(same[s].numpy(), expected[s]) for s in same}
  print(f"{task}: relative error of the latents of JAX's noise: {errors}")
  own = sample(model, task, *texts, given=given)
  return {"JAX": expected, "PyTorch": own, "PyTorch, JAX's noise": same}


def relative_error(x: np.ndarray, expected: np.ndarray) -> float:
  """Returns the relative error in the L2 norm."""
  return float(np.linalg.norm(x - expected) / np.linalg.norm(expected))


def to_torch(x: Any) -> torch.Tensor:
  """Returns a copy as a tensor."""
  return torch.tensor(np.asarray(x))


if __name__ == "__main__":
  command.run(compare, ("workdir", "data"))
