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
import dataclasses
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
from ccl_jax.data.loader import Loader
from ccl_jax.data.mixture import main_path
from ccl_jax.generation.eval_config import EvalConfig
from ccl_jax.generation.held_out_shares import HeldOutShares, open_shares
from ccl_jax.generation.pipeline import Pipeline
from ccl_jax.generation.previews import write_previews
from ccl_jax.generation.sampling_config import SamplingConfig
from ccl_jax.processes import distributed
from ccl_jax.storage import files
from ccl_jax.training import buckets, preemption, program_cache, xla_options
from ccl_jax.training.goodput import Goodput
from ccl_jax.training.held_out import HeldOutLoss, make_held_out
from ccl_jax.training.log import MetricWriter
from ccl_jax.training.log_config import LogConfig, check_keep_best
from ccl_jax.training.metrics import DelayedMetrics, check_skipped
from ccl_jax.training.profiling import Profiler
from ccl_jax.training.setup import TrainSetup, make_setup
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
    ValueError: a config key that nothing reads, data that do not fit the
      model, or a workdir that belongs to another run.
    FloatingPointError: too many steps in a row that were not finite.
  """
  clock = Goodput()
  with clock("setup"):
    run, state = make_run(config, workdir, clock)
  try:
    run_steps(run, state, clock)
  except Exception:
    # Completes a save that has begun; the first error is the one to show.
    with contextlib.suppress(Exception):
      run.checkpoints.close()
    raise
  run.close()


def run_steps(run: "Run", state: PyTree, clock: Goodput) -> None:
  """Runs the steps of a run from where it starts; raises as `train`."""
  # The metrics of one step are read while the device does the next.
  delayed = DelayedMetrics()
  with preemption.StopSignal() as stop, run.profiler:
    for i in range(run.start, run.num_steps):
      done, is_first = i + 1, i == run.start
      with clock("data"):
        step = run.steps[run.loader.bucket_at(i)]
        batch = step.put(run.loader.batch_at(i))
      is_last = done == run.num_steps or stop.should_stop(done)
      event = "compile" if is_first else "step"
      # `every_minutes` may wait for the device: that time is the step's.
      with clock(event):
        do_save = run.checkpoints.should_save(done) or is_last
      do_eval = run.evaluation.should_run(done, run.num_steps)
      do_measure = run.evaluation.should_measure(done)
      # Without waiting, a step's time would count as that of a save, or as
      # nobody's.
      do_wait = is_first or do_save or do_eval or do_measure
      do_copy = run.checkpoints.should_copy(done)
      do_wait = do_wait or do_copy or run.profiler.is_last(i)
      with run.profiler.step(i), clock(event):
        state, metrics = step.train_step(state, batch)
        fetched = delayed.push(done, metrics)
        fetched += delayed.drain() if do_wait else []
      run.log(fetched, done, state)
      if do_copy:
        with clock("checkpoint"):
          run.checkpoints.copy(done, state)
      if do_measure:
        run.measure(done, state)
      # What a checkpoint is chosen by comes before it, pictures after it.
      if do_eval and run.shares:
        run.preview(done, state)
      if do_save:
        run.save(done, state)
      if do_eval and not run.shares:
        run.preview(done, state)
      if is_last:
        break


@dataclasses.dataclass(frozen=True)
class Run:
  """The parts of a run around its state, and what they do between steps.

  Attributes:
    setup: all that is static in a step.
    workdir: where everything is written.
    data: the data set whose clips are previewed.
    start, num_steps: steps done before this process, and in the end.
    clock: of this process.
    loader: of the rows that this host's devices hold.
    steps: the step of each shape of clips.
    checkpoints: saves the state.
    logger: writes the metrics.
    max_nonfinite_steps: steps in a row without an update that end the run.
    profiler: traces some steps.
    evaluation: when to measure and to sample, and what.
    held_out: the loss on held-out clips, if it is measured.
    shares: scores the previews, if they are of a synthetic world.
    sampling: settings of the previews.
  """

  setup: TrainSetup
  workdir: epath.Path
  data: str
  start: int
  num_steps: int
  clock: Goodput
  loader: Loader
  steps: Sequence[buckets.BucketStep]
  checkpoints: CheckpointManager
  logger: MetricWriter
  max_nonfinite_steps: int
  profiler: Profiler
  evaluation: EvalConfig
  held_out: HeldOutLoss | None
  shares: HeldOutShares | None
  sampling: SamplingConfig

  def log(
    self, fetched: Sequence[tuple[int, PyTree]], done: int, state: PyTree
  ) -> None:
    """Logs the metrics of steps, [(step, metrics)].

    Raises:
      FloatingPointError: too many of them were not finite; the state, which is
        that of step `done`, is saved.
    """
    try:
      for step, metrics in fetched:
        self.logger.add_step(step, metrics)
        check_skipped(
          step, metrics, self.max_nonfinite_steps, self.loader.names_at
        )
    except FloatingPointError:
      self.checkpoints.save(done, state)
      raise

  def measure(self, step: int, state: PyTree) -> None:
    """Logs the loss on held-out clips."""
    with self.clock("eval"):
      losses = self.held_out(state_params(state, average=True))
      self.logger.write_scalars(step, losses)

  def save(self, step: int, state: PyTree) -> None:
    """Saves the state, with the value by which the best one is chosen."""
    with self.clock("checkpoint"):
      value = self.logger.value_at(step, self.checkpoints.keep_best)
      self.checkpoints.save(step, state, value=value)
    self.logger.flush()

  def preview(self, step: int, state: PyTree) -> None:
    """Samples held-out clips with the moving average of the parameters.

    Those of the data set's first shape are scored.
    """
    with self.clock("eval"):
      codecs = Codecs.load(self.workdir / "codecs")
      params = state_params(state, average=True)
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


def make_run(
  config: Mapping[str, Any], workdir: epath.Path, clock: Goodput
) -> tuple[Run, PyTree]:
  """Returns a new or resumed run, and its state; raises as `train`."""
  # Every section is read by one constructor.
  check_keys(config, SECTIONS, "config")
  config = fit_to_data(config)
  setup, num_steps = make_setup(config), config["num_train_steps"]
  xla_options.check_options(setup.compiler_options, jax.local_devices()[0])
  sampling = build(SamplingConfig, config["sampling"], "sampling")
  evaluation = build(EvalConfig, config["eval"], "eval")
  log = build(LogConfig, config["log"], "log")
  check_keep_best(config, setup.plan.streams)
  init = build(InitConfig, config["init"], "init")

  data = main_path(config["data"])
  loader = buckets.make_loader(setup, config["data"])
  print_mixture(loader)
  can_do = setup.plan.streams, setup.plan.conditions
  evaluation = evaluation.for_data(*can_do, data, config["data"]["split"])
  checkpoints = build(
    CheckpointManager, config["checkpoint"], "checkpoint", workdir=workdir
  )
  profiler = Profiler(
    workdir / "profile", log.profile_steps, num_steps, clock,
    distributed.is_lead(), log.profiler_port,
  )  # fmt: skip
  held_out = None
  if evaluation.loss_every_steps:
    held_out = make_held_out(
      setup, config["data"], evaluation.split, evaluation.loss_batches
    )
  check_workdir(workdir, config)
  checkpoints.check_mesh(lambda: abstract_state(setup))
  shares = open_shares(evaluation, setup.plan, data, checkpoints.keep_best)
  params = earlier_params(setup, workdir, init)
  # Only now is anything written: what is refused leaves nothing.
  program_cache.enable(files.absolute(workdir) / "compiled")
  prepare_workdir(workdir, config)
  state, start = first_state(setup, checkpoints, params)
  del params
  if distributed.is_lead() and state["frozen"]:
    print(describe_trainable(state))
  with clock("compile"):
    steps = buckets.make_steps(setup, loader)
  logger = MetricWriter(
    workdir, start, num_steps, log.every_steps, clock,
    lambda i: steps[loader.bucket_at(i)].cost, distributed.is_lead(),
    loader.progress_at,
  )  # fmt: skip
  run = Run(
    setup=setup, workdir=workdir, data=data, start=start,
    num_steps=num_steps, clock=clock, loader=loader, steps=steps,
    checkpoints=checkpoints, logger=logger,
    max_nonfinite_steps=log.max_nonfinite_steps, profiler=profiler,
    evaluation=evaluation, held_out=held_out, shares=shares,
    sampling=sampling,
  )  # fmt: skip
  return run, state


def print_mixture(loader: Loader) -> None:
  """Prints the sets and shapes of a run that has several."""
  is_mixed = len(loader.mixture.sources) + len(loader.buckets) > 2
  if distributed.is_lead() and is_mixed:
    print(f"Training on a mixture:\n{loader.mixture}")


if __name__ == "__main__":
  command.run(main, ("config", "workdir"))
