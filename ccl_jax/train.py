"""Trains a model: python -m ccl_jax.train --config=configs/ccl.py:size=tiny \
    --workdir=DIR --config.data.path=DIR

The same command resumes: state comes from the newest checkpoint, data and
noise are pure functions of (seed, step), so a run that was killed equals one
that was not. A workdir in the end holds

    config.json clip.json codecs/     what the run is
    checkpoints/STEP/                 Orbax, the newest few
    metrics.jsonl loss.png tensorboard/
    samples/STEP/                     mp4 and a contact sheet at evaluations
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from ccl_jax.config import build, check_keys
from ccl_jax.data import pipeline as data_pipeline
from ccl_jax.data import records
from ccl_jax.diffusion.objective import Objective
from ccl_jax.pipeline import Pipeline, Sampling
from ccl_jax.training import checkpoint, log, step
from ccl_jax.training.optim import Optimizer

CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of this run.")

SECTIONS = (
  "batch", "checkpoint", "data", "encode", "eval", "log", "model",
  "objective", "optimizer", "sampling", "seed", "steps",
)  # fmt: skip
# What may change between two starts of one run.
FREE = ("checkpoint", "data", "encode", "eval", "log", "sampling")


def main(argv: list[str]) -> None:
  """Reads the flags."""
  if len(argv) > 1:
    raise app.UsageError(f"Unknown arguments: {argv[1:]}.")
  try:
    train(CONFIG.value.to_dict(), Path(WORKDIR.value))
  except ValueError as error:
    raise SystemExit(f"error: {error}") from error


def train(config: Mapping[str, Any], workdir: Path) -> None:
  """Runs, or goes on with, the run that `config` describes.

  Raises:
    ValueError: a config key that nothing reads, data that do not fit the
      model, or a workdir that belongs to another run.
  """
  # -- Settings: every section is read by one constructor.
  check_keys(config, SECTIONS, "config")
  num_steps, seed = config["steps"], config["seed"]
  objective = build(Objective, config["objective"], "objective")
  optimizer = build(Optimizer, config["optimizer"], "optimizer")
  sampling = build(Sampling, config["sampling"], "sampling")
  held_out = build(HeldOut, config["eval"], "eval")
  every = build(lambda every: every, config["log"], "log")

  # -- Data.
  loader = build(
    data_pipeline.make_loader, config["data"], "data",
    batch=config["batch"], seed=seed,
  )  # fmt: skip
  metadata = records.read_metadata(config["data"]["path"])
  check_fit(config["model"], metadata)

  # -- Workdir, model and state: resumed, or from scratch.
  may_differ = FREE + (("steps",) if optimizer.decay == "constant" else ())
  checkpoint.claim_workdir(workdir, config, may_differ)
  copy_codecs(Path(config["data"]["path"]), metadata, workdir)
  recipe = step.make_recipe(
    config["model"], objective, optimizer, num_steps, seed
  )
  checkpoints = build(
    checkpoint.Checkpointer, config["checkpoint"], "checkpoint", workdir=workdir
  )
  start = checkpoints.newest()
  if start is None:
    state, start = step.init_state(config["model"], recipe), 0
  else:
    shapes = jax.eval_shape(lambda: step.init_state(config["model"], recipe))
    state = checkpoints.restore(shapes)
    logging.info("Resuming from step %d.", start)

  # -- Loop. Metrics are fetched only when logged, so the device never waits.
  take_step = step.compile_step(recipe)
  logger, recent = log.Log(workdir, start, num_steps), []
  for i in range(start, num_steps):
    state, metrics = take_step(state, loader.batch_at(i))
    recent.append(metrics)
    done, is_last = i + 1, i + 1 == num_steps
    if done % every == 0 or is_last:
      logger.scalars(done, log.summarize(recent))
      logger.bar.update(len(recent))
      recent = []
    checkpoints.save(done, state, last=is_last)
    if held_out.is_due(done) or is_last:
      pipeline = Pipeline(
        recipe.graph, step.state_params(state, average=True),
        Codecs.load(workdir / "codecs"), clip_shape(metadata), sampling, done,
      )  # fmt: skip
      held_out.show(pipeline, config["data"]["path"], workdir, logger)
  checkpoints.close()
  logger.close()
