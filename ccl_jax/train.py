r"""Trains a model:

    python -m ccl_jax.train --config=configs/ccl.py:size=tiny \
        --workdir=DIR --config.data.path=DIR

The same command resumes: the state comes from the newest checkpoint, and data
and noise are pure functions of (seed, step), so a run that was killed equals
one that was not. At the end, a workdir holds

    config.json clip.json codecs/     the run's settings, clips and codecs
    checkpoints/STEP/                 Orbax, the newest few
    compiled/                         this user's programs, loaded at the next
                                      start (`program_cache`)
    metrics.jsonl loss.png tensorboard/
    samples/STEP/                     mp4 and a contact sheet at evaluations
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import flags
from etils import epath
from ml_collections import config_flags

from ccl_jax import command
from ccl_jax.array_types import PyTree
from ccl_jax.checkpoints.manager import CheckpointManager
from ccl_jax.codecs.api import Codecs
from ccl_jax.config import build, check_keys
from ccl_jax.data.mixture import main_path
from ccl_jax.generation.eval_config import EvalConfig
from ccl_jax.generation.held_out_shares import open_shares
from ccl_jax.generation.pipeline import Pipeline
from ccl_jax.generation.previews import write_previews
from ccl_jax.generation.sampling_config import SamplingConfig
from ccl_jax.processes import distributed
from ccl_jax.storage import files
from ccl_jax.training import buckets, preemption, program_cache, xla_options
from ccl_jax.training.batch import put_batch
from ccl_jax.training.goodput import Goodput
from ccl_jax.training.held_out import make_held_out
from ccl_jax.training.log import MetricWriter
from ccl_jax.training.log_config import LogConfig, check_keep_best
from ccl_jax.training.metrics import DelayedMetrics, check_skipped
from ccl_jax.training.profiling import Profiler
from ccl_jax.training.setup import make_setup
from ccl_jax.training.start import InitConfig, earlier_params, first_state
from ccl_jax.training.state import (
  abstract_state,
  describe_trainable,
  state_params,
)
from ccl_jax.training.workdir import (
  check_workdir,
  fit_to_data,
  prepare_workdir,
)

CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder of this run, local or in a bucket (gs://...)."
)
DISTRIBUTED = command.define_distributed()

SECTIONS = (
  "batch_size", "checkpoint", "data", "encode", "eval",
  "grad_accumulation_steps", "init", "log", "lora", "mesh", "model",
  "num_train_steps", "objective", "optimizer", "sampling", "seed", "sharding",
  "xla_options",
)  # fmt: skip


def main() -> None:
  """Reads the flags and trains."""
  distributed.initialize(DISTRIBUTED.value)
  train(CONFIG.value.to_dict(), epath.Path(WORKDIR.value))
  distributed.shutdown()


def train(config: Mapping[str, Any], workdir: epath.Path) -> None:
  """Starts or resumes the run of a config.

  Raises:
    ValueError: as `Trainer`.
    FloatingPointError: too many steps in a row that were not finite.
  """
  clock = Goodput()
  with clock("setup"):
    trainer = Trainer(config, workdir, clock)
    trainer.start()
  try:
    trainer.run_steps()
  except Exception:
    # Completes a save that has begun; the first error is the one to show.
    with contextlib.suppress(Exception):
      trainer.checkpoints.close()
    raise
  trainer.close()


class Trainer:
  """The parts of a run, checked before anything is written.

  Attributes:
    state: the training state, from `start` on; each step donates it.
    start_step: number of steps done before this process.

  Raises:
    ValueError: a config key that nothing reads, data that do not fit the
      model, or a workdir that belongs to another run.
  """

  def __init__(
    self, config: Mapping[str, Any], workdir: epath.Path, clock: Goodput
  ):
    # Every section is read by one constructor.
    check_keys(config, SECTIONS, "config")
    self.config = config = fit_to_data(config)
    self.workdir, self.clock = workdir, clock
    self.setup = setup = make_setup(config)
    self.num_steps = config["num_train_steps"]
    xla_options.check_options(setup.compiler_options, jax.local_devices()[0])
    self.sampling = build(SamplingConfig, config["sampling"], "sampling")
    evaluation = build(EvalConfig, config["eval"], "eval")
    self.log_config = build(LogConfig, config["log"], "log")
    check_keep_best(config, setup.plan.streams)
    init = build(InitConfig, config["init"], "init")
    self.data = main_path(config["data"])
    self.loader = buckets.make_loader(setup, config["data"])
    is_mixed = len(self.loader.mixture.sources) + len(self.loader.buckets) > 2
    if distributed.is_lead() and is_mixed:
      print(f"Training on a mixture:\n{self.loader.mixture}")
    can_do = setup.plan.streams, setup.plan.conditions
    self.evaluation = evaluation = evaluation.for_data(
      *can_do, self.data, config["data"]["split"]
    )
    self.checkpoints = build(
      CheckpointManager, config["checkpoint"], "checkpoint", workdir=workdir
    )
    self.profiler = Profiler(
      workdir / "profile", self.log_config.profile_steps, self.num_steps, clock,
      distributed.is_lead(), self.log_config.profiler_port,
    )  # fmt: skip
    if evaluation.loss_every_steps:
      self.held_out = make_held_out(
        setup, config["data"], evaluation.split, evaluation.loss_batches
      )
    check_workdir(workdir, config)
    self.checkpoints.check_mesh(lambda: abstract_state(setup))
    best = self.checkpoints.keep_best
    self.shares = open_shares(evaluation, setup.plan, self.data, best)
    self.params = earlier_params(setup, workdir, init)

  def start(self) -> None:
    """Claims the workdir, and makes or restores the state."""
    program_cache.enable(files.absolute(self.workdir) / "compiled")
    prepare_workdir(self.workdir, self.config)
    self.state, self.start_step = first_state(
      self.setup, self.checkpoints, self.params
    )
    del self.params
    if distributed.is_lead() and self.state["frozen"]:
      print(describe_trainable(self.state))
    with self.clock("compile"):
      self.steps = buckets.make_steps(self.setup, self.loader)
    self.logger = MetricWriter(
      self.workdir, self.start_step, self.num_steps,
      self.log_config.every_steps, self.clock,
      lambda i: self.steps[self.loader.bucket_at(i)].cost,
      distributed.is_lead(), self.loader.progress_at,
    )  # fmt: skip

  def run_steps(self) -> None:
    """Runs the steps from where the run starts; raises as `train`."""
    # The metrics of one step are read while the device does the next.
    delayed = DelayedMetrics()
    with preemption.stop_signal() as should_stop, self.profiler:
      for i in range(self.start_step, self.num_steps):
        done, is_first = i + 1, i == self.start_step
        with self.clock("data"):
          step = self.steps[self.loader.bucket_at(i)]
          batch = put_batch(step.setup, self.loader.batch_at(i))
        is_last = done == self.num_steps or should_stop(done)
        event = "compile" if is_first else "step"
        # `every_minutes` may wait for the device: that time is the step's.
        with self.clock(event):
          do_save = self.checkpoints.should_save(done) or is_last
        do_eval = self.evaluation.should_run(done, self.num_steps)
        do_measure = self.evaluation.should_measure(done)
        do_copy = self.checkpoints.should_copy(done)
        # Without waiting, a step's time would count as that of a save, or as
        # nobody's.
        do_wait = is_first or do_save or do_eval or do_measure or do_copy
        do_wait = do_wait or self.profiler.is_last(i)
        with self.profiler.step(i), self.clock(event):
          self.state, metrics = step.train_step(self.state, batch)
          fetched = delayed.push(done, metrics)
          fetched += delayed.drain() if do_wait else []
        self.log(fetched, done)
        if do_copy:
          with self.clock("checkpoint"):
            self.checkpoints.copy(done, self.state)
        if do_measure:
          self.measure(done)
        # What a checkpoint is chosen by comes before it, pictures after it.
        if do_eval and self.shares:
          self.preview(done)
        if do_save:
          self.save(done)
        if do_eval and not self.shares:
          self.preview(done)
        if is_last:
          break

  def log(self, fetched: Sequence[tuple[int, PyTree]], done: int) -> None:
    """Logs the metrics of steps, [(step, metrics)].

    Raises:
      FloatingPointError: too many of them were not finite; the state, which is
        that of step `done`, is saved.
    """
    limit = self.log_config.max_nonfinite_steps
    try:
      for step, metrics in fetched:
        self.logger.add_step(step, metrics)
        check_skipped(step, metrics, limit, self.loader.names_at)
    except FloatingPointError:
      self.checkpoints.save(done, self.state)
      raise

  def measure(self, step: int) -> None:
    """Logs the loss on held-out clips."""
    with self.clock("eval"):
      losses = self.held_out(state_params(self.state, average=True))
      self.logger.write_scalars(step, losses)

  def save(self, step: int) -> None:
    """Saves the state, with the value by which the best one is chosen."""
    with self.clock("checkpoint"):
      value = self.logger.value_at(step, self.checkpoints.keep_best)
      self.checkpoints.save(step, self.state, value=value)
    self.logger.flush()

  def preview(self, step: int) -> None:
    """Samples held-out clips with the moving average of the parameters.

    Those of the data set's first shape are scored.
    """
    with self.clock("eval"):
      codecs = Codecs.load(self.workdir / "codecs")
      params = state_params(self.state, average=True)
      shift_shape = self.setup.objective.time_shift_shape
      for i, (data, shape) in enumerate(self.evaluation.list_data(self.data)):
        shapes = shape.latent_shapes(codecs)
        pipeline = Pipeline(
          plan=self.setup.plan, params=params, codecs=codecs, shape=shape,
          step=step, sampling=self.sampling.for_shapes(shapes, shift_shape),
        )  # fmt: skip
        label = data.name if i else ""
        write_previews(
          pipeline, self.evaluation, data, self.workdir, self.logger, label,
          None if i else self.shares,
        )  # fmt: skip

  def close(self) -> None:
    """Waits for what is being saved, and writes the end of the log."""
    with self.clock("checkpoint"):
      self.checkpoints.close()
    self.logger.close()
    name = self.checkpoints.keep_best
    if best := name and self.checkpoints.best_step():
      print(f"Best {name}: step {best} (--step=best).")


if __name__ == "__main__":
  command.run(main, ("config", "workdir"))
