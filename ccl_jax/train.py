"""Trains a model:

    python -m ccl_jax.train --config=configs/ccl.py:size=tiny \
        --workdir=DIR --config.data.path=DIR

The same command resumes: state comes from the newest checkpoint, data and
noise are pure functions of (seed, step), so a run that was killed equals one
that was not. A workdir in the end holds

    config.json clip.json codecs/     the run's settings, clips and codecs
    checkpoints/STEP/                 Orbax, the newest few
    compiled/                         programs, loaded at the next start
                                      (of this user only: `program_cache`)
    metrics.jsonl loss.png tensorboard/
    samples/STEP/                     mp4 and a contact sheet at evaluations
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags
from etils import epath
from ml_collections import config_flags

from ccl_jax import command, distributed, files, lora
from ccl_jax.array_types import PyTree
from ccl_jax.checkpoints import manager, restore
from ccl_jax.codecs.api import Codecs
from ccl_jax.config import FORMS, build, check_keys, check_pairs, suggest
from ccl_jax.data.clip import ClipShape
from ccl_jax.data.loader import Loader
from ccl_jax.data.mixture import main_path
from ccl_jax.diffusion import objective
from ccl_jax.generation.components import scale_shift
from ccl_jax.generation.pipeline import Pipeline
from ccl_jax.generation.previews import EvalConfig, write_previews
from ccl_jax.generation.sampling_config import SamplingConfig
from ccl_jax.training import (
  buckets,
  goodput,
  log,
  preemption,
  profiling,
  program_cache,
)
from ccl_jax.training.batch import put_batch
from ccl_jax.training.held_out import Evaluate, HeldOutLoss, make_evaluate
from ccl_jax.training.metrics import DelayedMetrics, check_skipped
from ccl_jax.training.setup import TrainSetup, make_setup
from ccl_jax.training.state import (
  abstract_params,
  abstract_state,
  init_state,
  replace_params,
  share_of_trainable,
  state_params,
)
from ccl_jax.training.workdir import fit_to_data, prepare_workdir

CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder of this run, local or in a bucket (gs://...)."
)
DISTRIBUTED = flags.DEFINE_string(
  "distributed", "off",
  "How processes find each other: off, auto, or HOST:PORT,PROCESSES,INDEX.",
)  # fmt: skip

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
  clock = goodput.Goodput()
  program_cache.enable(files.absolute(workdir) / "compiled")
  with clock("setup"):
    # -- Settings: every section is read by one constructor.
    check_keys(config, SECTIONS, "config")
    config = fit_to_data(config)
    setup, num_steps = make_setup(config), config["num_train_steps"]
    sampling = build(SamplingConfig, config["sampling"], "sampling")
    evaluation = build(EvalConfig, config["eval"], "eval")
    logging = build(LogConfig, config["log"], "log")
    check_keep_best(config, setup.plan.streams)
    init = build(InitConfig, config["init"], "init")

    # -- Data: this host reads the rows that its devices hold.
    data = main_path(config["data"])
    loader = buckets.make_loader(setup, config["data"])
    is_mixed = len(loader.mixture.sources) + len(loader.buckets) > 2
    if distributed.is_lead() and is_mixed:
      print(f"Training on a mixture:\n{loader.mixture}")
    evaluation = evaluation.for_data(
      setup.plan.streams, data, config["data"]["split"]
    )
    clip = prepare_workdir(workdir, config)

    # -- State: resumed, or from scratch.
    checkpoints = build(
      manager.CheckpointManager, config["checkpoint"], "checkpoint",
      workdir=workdir,
    )  # fmt: skip
    state, start = first_state(setup, checkpoints, init)
    if distributed.is_lead() and state["frozen"]:
      print(share_of_trainable(state))
    with clock("compile"):
      steps = buckets.make_steps(setup, loader)
    held_out = make_held_out(setup, config, evaluation)
    logger = logging.make_log(workdir, config, start, clock, loader, steps)
    profiler = logging.make_profiler(workdir, num_steps, clock)

  # -- Loop. It reads the metrics of one step while the device does the next.
  delayed = DelayedMetrics()
  with preemption.StopSignal() as stop, profiler:
    for i in range(start, num_steps):
      done = i + 1
      with clock("data"):
        step = steps[loader.bucket_at(i)]
        batch = step.put(loader.batch_at(i))
      is_last = done == num_steps or stop.should_stop(done)
      with clock("compile" if i == start else "step"):
        do_save = checkpoints.should_save(done) or is_last
      do_eval = evaluation.should_run(done, num_steps)
      do_measure = evaluation.should_measure(done)
      # Without waiting, a step's time would count as that of a save, or as
      # nobody's.
      do_wait = i == start or do_save or do_eval or do_measure
      do_wait = do_wait or profiler.is_last(i)
      with profiler.step(i), clock("compile" if i == start else "step"):
        state, metrics = step.take(state, batch)
        fetched = delayed.push(done, metrics)
        fetched += delayed.drain() if do_wait else []
      try:
        for number, values in fetched:
          logger.add_step(number, values)
          check_skipped(
            number, values, logging.max_nonfinite_steps, loader.names_at
          )
      except FloatingPointError:
        checkpoints.save(done, state, force=True)
        checkpoints.close()
        raise
      if do_measure:
        with clock("eval"):
          losses = held_out(state_params(state, average=True))
          logger.write_scalars(done, losses)
      if do_save:
        with clock("checkpoint"):
          checkpoints.save(
            done, state, force=True,
            value=logger.value_at(done, checkpoints.keep_best),
          )  # fmt: skip
        logger.flush()
      if do_eval:
        with clock("eval"):
          pipeline = make_pipeline(setup, state, workdir, clip, done, sampling)
          write_previews(pipeline, evaluation, data, workdir, logger)
      if is_last:
        break
  with clock("checkpoint"):
    checkpoints.close()
  logger.close()
  if best := checkpoints.keep_best and checkpoints.best_step():
    print(f"Best {checkpoints.keep_best}: step {best} (--step=best).")


def make_pipeline(
  setup: TrainSetup,
  state: PyTree,
  workdir: epath.Path,
  clip: ClipShape,
  step: int,
  sampling: SamplingConfig,
) -> Pipeline:
  """Returns what generates from the moving average of the parameters."""
  codecs = Codecs.load(workdir / "codecs")
  shift_shape = setup.objective.time_shift_shape
  return Pipeline(
    plan=setup.plan, params=state_params(state, average=True), codecs=codecs,
    shape=clip, step=step,
    sampling=scale_shift(sampling, clip, codecs, shift_shape),
  )  # fmt: skip


def check_keep_best(config: Mapping[str, Any], streams: Sequence[str]) -> None:
  """Checks that `checkpoint.keep_best` is a loss known at each checkpoint.

  Raises:
    ValueError: it is not.
  """
  name = config["checkpoint"].get("keep_best", "")
  interval = config["checkpoint"]["save_interval_steps"]
  if not name:
    return
  known = objective.loss_names(streams)
  is_held_out = name.startswith(log.HELD_OUT)
  if name.removeprefix(log.HELD_OUT) not in known:
    raise ValueError(
      f"checkpoint.keep_best is '{name}'.{suggest(name, known)} Expected one of"
      f" {', '.join(known)}, perhaps with {log.HELD_OUT} before it."
    )
  key = "eval.loss_every_steps" if is_held_out else "log.every_steps"
  section, _, field = key.partition(".")
  if not (every := config[section][field]) or interval % every:
    raise ValueError(
      f"checkpoint.keep_best={name} is known every {key}={every} steps, and"
      f" checkpoints are saved every {interval}: set {key} to a number that"
      f" divides {interval}."
    )


def make_held_out(
  setup: TrainSetup, config: Mapping[str, Any], evaluation: EvalConfig
) -> HeldOutLoss | None:
  """Returns the loss on the split of the `eval` section; None if it is off."""
  if not evaluation.loss_every_steps:
    return None
  loader = buckets.make_loader(
    setup, config["data"], path=main_path(config["data"]), sources=(),
    split=evaluation.split, shuffle=False, num_threads=0,
    sample_posterior=False,
  )  # fmt: skip
  setups = buckets.make_setups(setup, loader)

  programs = [make_evaluate(own) for own in setups]

  def batch_at(i: int) -> tuple[Mapping[str, Any], Evaluate]:
    k = loader.bucket_at(i)
    rows = buckets.local_rows(setups[k])
    return put_batch(setups[k], rows, loader.batch_at(i)), programs[k]

  return HeldOutLoss(batch_at, evaluation.loss_batches)


def first_state(
  setup: TrainSetup,
  checkpoints: manager.CheckpointManager,
  settings: "InitConfig",
) -> tuple[PyTree, int]:
  """Returns the newest checkpoint's state and step, or a new state and 0.

  Args:
    settings: which parameters of a new state come from earlier runs.
  """
  found = checkpoints.restore_latest(abstract_state(setup))
  if found is not None:
    print(f"Resuming {checkpoints.workdir} from step {found[1]}.")
    return found
  state = init_state(setup)
  if settings.from_runs:
    params = restore.initial_params(
      lora.without(abstract_params(setup)), settings.from_runs, settings.fresh
    )
    state = replace_params(state, params)
  elif state["frozen"]:
    print(
      "Frozen parameters are random: name the run that has trained them,"
      f" --config.init.from_runs={FORMS['init.from_runs']}"
    )
  return state, 0


@dataclasses.dataclass(frozen=True)
class InitConfig:
  """The `init` section; see `restore.initial_params`.

  Attributes:
    from_runs: (path regex, workdir): parameters of earlier runs.
    fresh: path regexes of parameters that no earlier run has.

  Raises:
    ValueError: `from_runs` is not made of pairs.
  """

  from_runs: tuple[tuple[str, str], ...] = ()
  fresh: tuple[str, ...] = ()

  def __post_init__(self):
    check_pairs("init.from_runs", self.from_runs, str)


@dataclasses.dataclass(frozen=True)
class LogConfig:
  """The `log` section.

  Attributes:
    every_steps: steps between two lines.
    max_nonfinite_steps: steps in a row without an update that end the run.
    profile_steps: (first, last + 1) of the steps to trace, or ().
    profiler_port: where process 0 gives traces to who asks; 0 is nowhere.
  """

  every_steps: int = 10
  max_nonfinite_steps: int = 20
  profile_steps: tuple[int, ...] = ()
  profiler_port: int = 0

  def make_log(
    self,
    workdir: epath.Path,
    config: Mapping[str, Any],
    start: int,
    clock: goodput.Goodput,
    loader: Loader,
    steps: Sequence[buckets.BucketStep],
  ) -> log.MetricWriter:
    """Returns the run's log, which knows the FLOPs and data of a step."""
    return log.MetricWriter(
      workdir, start, config["num_train_steps"], self.every_steps, clock,
      lambda i: steps[loader.bucket_at(i)].cost, distributed.is_lead(),
      loader.progress_at,
    )  # fmt: skip

  def make_profiler(
    self, workdir: epath.Path, num_steps: int, clock: goodput.Goodput
  ) -> profiling.Profiler:
    """Returns what traces the steps of `profile_steps`."""
    return profiling.Profiler(
      workdir / "profile", self.profile_steps, num_steps, clock,
      distributed.is_lead(), self.profiler_port,
    )  # fmt: skip


if __name__ == "__main__":
  command.run(main, ("config", "workdir"))
