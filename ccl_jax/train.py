"""Trains a model: python -m ccl_jax.train --config=configs/ccl.py:size=tiny \
    --workdir=DIR --config.data.path=DIR

The same command resumes: state comes from the newest checkpoint, data and
noise are pure functions of (seed, step), so a run that was killed equals one
that was not. A workdir in the end holds

    config.json clip.json codecs/     what the run is
    checkpoints/STEP/                 Orbax, the newest few
    compiled/                         programs, loaded at the next start
    metrics.jsonl loss.png tensorboard/
    samples/STEP/                     mp4 and a contact sheet at evaluations
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from absl import flags
from etils import epath
from ml_collections import config_flags

from ccl_jax import command, distributed, files, sharding
from ccl_jax.array_types import PyTree
from ccl_jax.checkpoints import manager, restore
from ccl_jax.codecs.api import Codecs
from ccl_jax.config import build, check_keys
from ccl_jax.data import loader as data_pipeline
from ccl_jax.data import records
from ccl_jax.diffusion import tasks
from ccl_jax.generation.pipeline import ClipShape, Pipeline
from ccl_jax.generation.sampling import SamplingConfig
from ccl_jax.metrics import contact_sheet
from ccl_jax.training import (
  goodput,
  log,
  preemption,
  profiling,
  step,
  throughput,
  xla_options,
)
from ccl_jax.training.batch import put_batch
from ccl_jax.training.metrics import DelayedMetrics, check_skipped
from ccl_jax.training.setup import TrainSetup, flop_shape, make_setup
from ccl_jax.training.state import (
  abstract_params,
  abstract_state,
  init_state,
  replace_params,
  state_params,
)

CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of this run.")

DISTRIBUTED = flags.DEFINE_string(
  "distributed", "off", "off, auto, or HOST:PORT,PROCESSES,INDEX."
)

SECTIONS = (
  "batch_size", "checkpoint", "data", "encode", "eval",
  "grad_accumulation_steps", "init", "num_train_steps",
  "log", "mesh", "model", "objective", "optimizer", "sampling", "seed",
  "sharding", "xla_options",
)  # fmt: skip
# What may change between two starts of one run.
FREE = (
  "checkpoint", "data", "encode", "eval", "grad_accumulation_steps", "init", "log",
  "mesh", "sampling", "sharding", "xla_options",
)  # fmt: skip


def main() -> None:
  """Reads the flags."""
  distributed.initialize(DISTRIBUTED.value)
  train(CONFIG.value.to_dict(), epath.Path(WORKDIR.value))
  distributed.shutdown()


def train(config: Mapping[str, Any], workdir: epath.Path) -> None:
  """Runs, or goes on with, the run that `config` describes.

  Raises:
    ValueError: a config key that nothing reads, data that do not fit the
      model, or a workdir that belongs to another run.
    FloatingPointError: too many steps in a row that were not finite.
  """
  clock = goodput.Goodput()
  xla_options.keep_programs(files.absolute(workdir) / "compiled")
  with clock("setup"):
    # -- Settings: every section is read by one constructor.
    check_keys(config, SECTIONS, "config")
    setup, num_steps = make_setup(config), config["num_train_steps"]
    sampling = build(SamplingConfig, config["sampling"], "sampling")
    held_out = build(EvalConfig, config["eval"], "eval")
    telling = build(LogConfig, config["log"], "log")

    # -- Data, of which this host reads the rows that its devices hold.
    rows = sharding.local_rows(setup.layout, setup.batch_size)
    loader = build(
      data_pipeline.make_loader, config["data"], "data",
      batch_size=setup.batch_size, seed=setup.seed, rows=rows,
    )  # fmt: skip
    held_out.check(setup.streams, config["data"]["path"])
    is_constant = setup.optimizer.schedule == "constant"
    may_differ = FREE + (("num_train_steps",) if is_constant else ())
    clip = prepare_workdir(workdir, config, may_differ)

    # -- State: resumed, or from scratch.
    checkpoints = build(
      manager.Checkpointer, config["checkpoint"], "checkpoint",
      workdir=workdir,
    )  # fmt: skip
    state, start = first_state(setup, checkpoints, config["init"])
    take_step = step.compile_step(setup)
    logger = telling.logger(workdir, config, setup, start, clock)
    profiler = telling.profiler(workdir, num_steps, clock)

  # -- Loop. It reads the metrics of one step while the device does the next.
  lagged = DelayedMetrics()
  with preemption.StopSignal() as stop, profiler:
    for i in range(start, num_steps):
      done = i + 1
      with clock("data"):
        batch = put_batch(setup, rows, loader.batch_at(i))
      is_last = done == num_steps or stop.is_due(done)
      saves = checkpoints.is_due(done) or is_last
      shows = held_out.is_due(done, num_steps)
      # Else what a step takes would count as a save's time, or as nobody's.
      waits = i == start or saves or shows or profiler.is_last(i)
      with profiler.step(i), clock("compile" if i == start else "step"):
        state, metrics = take_step(state, batch)
        fetched = lagged.push(done, metrics)
        fetched += lagged.drain() if waits else []
      try:
        for number, values in fetched:
          logger.add(number, values)
          check_skipped(
            number, values, telling.max_nonfinite_steps, loader.names_at
          )
      except FloatingPointError:
        checkpoints.save(done, state, last=True)
        checkpoints.close()
        raise
      if saves:
        with clock("checkpoint"):
          checkpoints.save(done, state, last=is_last)
        logger.flush()
      if shows:
        with clock("eval"):
          pipeline = Pipeline(
            setup.graph, state_params(state, average=True),
            Codecs.load(workdir / "codecs"), clip, sampling, done,
            setup.layout, model=setup.model,
          )  # fmt: skip
          data = config["data"]["path"]
          show_samples(pipeline, held_out, data, workdir, logger)
      if is_last:
        break
  with clock("checkpoint"):
    checkpoints.close()
  logger.close()


def first_state(
  setup: TrainSetup, checkpoints: manager.Checkpointer, initial: Mapping
) -> tuple[PyTree, int]:
  """The newest checkpoint's state and its step; or a new state and 0.

  A new one takes from earlier runs what `initial` says.
  """
  found = checkpoints.restore_newest(abstract_state(setup))
  if found is not None:
    print(f"Resuming {checkpoints.workdir} from step {found[1]}.")
    return found
  state = init_state(setup)
  given = build(InitConfig, initial, "init")
  if given.from_runs:
    taken = restore.initial_params(
      abstract_params(setup), given.from_runs, given.fresh
    )
    state = replace_params(state, taken)
  return state, 0


@dataclasses.dataclass(frozen=True)
class InitConfig:
  """What a new run takes from others; see `restore.initial_params`."""

  from_runs: tuple[tuple[str, str], ...] = ()
  fresh: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class LogConfig:
  """The `log` section.

  Attributes:
    every_steps: steps between two lines.
    max_nonfinite_steps: steps in a row without an update that end the run.
    profile_steps: (first, last + 1) of the steps to trace, or nothing.
  """

  every_steps: int = 10
  max_nonfinite_steps: int = 20
  profile_steps: tuple[int, ...] = ()

  def logger(
    self,
    workdir: epath.Path,
    config: Mapping[str, Any],
    setup: TrainSetup,
    start: int,
    clock: goodput.Goodput,
  ) -> log.Log:
    """The run's log, which knows what a step is worth."""
    shapes = records.read_metadata(config["data"]["path"])["shapes"]
    mesh = setup.layout.mesh
    work = throughput.make_work(
      setup.model, flop_shape(setup, shapes), setup.batch_size,
      jax.devices()[:1] if mesh is None else list(mesh.devices.flat),
    )  # fmt: skip
    return log.Log(
      workdir, start, config["num_train_steps"], self.every_steps, clock, work,
      distributed.is_lead(),
    )  # fmt: skip

  def profiler(
    self, workdir: epath.Path, num_steps: int, clock: goodput.Goodput
  ) -> profiling.Profiler:
    """Traces the steps of `profile`."""
    return profiling.Profiler(
      workdir / "profile",
      self.profile_steps,
      num_steps,
      clock,
      distributed.is_lead(),
    )


@dataclasses.dataclass(frozen=True)
class EvalConfig:
  """What is sampled while training: `num_clips` clips of `split`, for each task."""

  every_steps: int = 1000
  split: str = "validation"
  num_clips: int = 4
  tasks: tuple[str, ...] = ("t2av", "a2v")

  def __post_init__(self):
    for name in self.tasks:
      tasks.inference_task(name)

  def check(self, streams: tuple[str, ...], data: str) -> None:
    """Raises ValueError for streams or a split that are not there."""
    if self.tasks:
      records.open_split(data, self.split)
    for name in self.tasks:
      if set(tasks.inference_task(name).streams) - set(streams):
        raise ValueError(
          f"eval.tasks has '{name}', but the model has only {streams}."
        )

  def is_due(self, done: int, last: int) -> bool:
    """Whether to sample after `done` of `last` steps."""
    return bool(self.tasks) and (done % self.every_steps == 0 or done == last)


def show_samples(
  pipeline: Pipeline,
  held_out: EvalConfig,
  data: str,
  workdir: epath.Path,
  logger,
) -> None:
  """Samples held-out prompts into samples/STEP and TensorBoard."""
  clips = data_pipeline.read_clips(data, held_out.split, held_out.num_clips)
  folder = workdir / "samples" / str(pipeline.step)
  for task in held_out.tasks:
    latents = pipeline.regenerate(task, clips)  # by all hosts
    if not distributed.is_lead():
      continue
    made = pipeline.decode(latents)
    for i, item in enumerate(made):
      item.save(folder / f"{task}_{i}.mp4")
      if item.audio is not None:
        name = f"{task}/{i}"
        logger.sound(name, item.audio, item.sample_rate, pipeline.step)
    rows = zip(clips["caption"], made, strict=True)
    sheet = contact_sheet.contact_sheet([(t, x.video, x.mel) for t, x in rows])
    contact_sheet.save_png(folder / f"{task}.png", sheet)
    logger.picture(task, sheet, pipeline.step)


def prepare_workdir(
  workdir: epath.Path, config: Mapping[str, Any], may_differ: tuple[str, ...]
) -> ClipShape:
  """Claims the workdir and copies in what sampling needs from the data.

  Raises:
    ValueError: the data do not fit the model, the workdir is another's, or its
      run was started on latents of other codecs.
  """
  data = epath.Path(config["data"]["path"])
  metadata = records.read_metadata(data)
  codecs = Codecs.load(data / "codecs")
  shape = ClipShape(
    metadata["fps"], metadata["frames"], tuple(metadata["size"])
  )
  check_fit(config["model"], codecs, shape)
  manager.claim_workdir(workdir, config, may_differ)
  if distributed.is_lead():
    files.write_json(workdir / "clip.json", dataclasses.asdict(shape))
    if not (workdir / "codecs").exists():
      codecs.save(workdir / "codecs")
  distributed.barrier("the workdir has its codecs")
  if not codecs.equals(Codecs.load(workdir / "codecs")):
    raise ValueError(
      f"'{data}/codecs' made other latents than '{workdir}/codecs', which this"
      " run was trained on. Encode with --codecs, or choose another --workdir."
    )
  return shape


def check_fit(
  model: Mapping[str, Any], codecs: Codecs, shape: ClipShape
) -> None:
  """Raises ValueError where the model's sizes are not those of the latents."""
  latents = shape.latents(codecs)
  frames, samples = latents["video"][0], latents["audio"][0]
  found = {"text_width": (model["text_width"], codecs.text.width)}
  if model["video"]:
    found["video.channels"] = (
      model["video"]["channels"],
      codecs.video.channels,
    )
  if model["audio"]:
    sizes = model["audio"]
    found["audio.channels"] = (sizes["channels"], codecs.audio.channels)
    per_frame = samples // frames
    found["audio.tokens_per_frame"] = (sizes["tokens_per_frame"], per_frame)
  wrong = [
    f"model.{name} is {ours}, the data have {theirs}"
    for name, (ours, theirs) in found.items()
    if ours != theirs
  ]
  if wrong:
    raise ValueError(
      f"Model and data do not fit: {'; '.join(wrong)}. Change the config, or"
      " encode the clips again with it."
    )


if __name__ == "__main__":
  command.run(main, ("config", "workdir"))
