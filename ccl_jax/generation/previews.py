"""Held-out clips that are sampled while a model trains."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from etils import epath

from ccl_jax.data import contact_sheet, records
from ccl_jax.data.clip import ClipShape, GeneratedClip
from ccl_jax.data.loader import read_clips
from ccl_jax.diffusion import tasks
from ccl_jax.generation import requests, stages
from ccl_jax.generation.pipeline import Pipeline
from ccl_jax.processes import distributed
from ccl_jax.training.log import MetricWriter
from ccl_jax.training.log_config import share_names

# Task and clips, which only process 0 has -> name in the log -> value.
Score = Callable[[str, Sequence[GeneratedClip]], Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class EvalConfig:
  """The `eval` section.

  Attributes:
    every_steps: steps between two evaluations; the last step has one too.
    split: of the data.
    num_clips: clips for each task.
    tasks: inference tasks; none for no evaluation.
    loss_every_steps: steps between two losses on the split; 0 for none.
    loss_batches: batches of the split that these are the mean of.
    all_shapes: sample clips of every shape of the data, not of the first alone.
    world: folder of the clips that the data were encoded from, if it is of a
      synthetic world: clips are then scored too. "" for none.
    num_scored: clips for each task that are scored, at most.

  Raises:
    ValueError: an unknown task, or a number out of range.
  """

  every_steps: int = 1000
  split: str = "validation"
  num_clips: int = 4
  tasks: tuple[str, ...] = ("t2av", "a2v")
  loss_every_steps: int = 0
  loss_batches: int = 4
  all_shapes: bool = False
  world: str = ""
  num_scored: int = 16

  def __post_init__(self):
    if self.every_steps < 1:
      raise ValueError(
        f"eval.every_steps={self.every_steps}: expected 1 or more; the last"
        " step has an evaluation in any case."
      )
    if self.loss_every_steps < 0 or self.loss_batches < 1:
      raise ValueError(
        f"eval.loss_every_steps={self.loss_every_steps} and"
        f" loss_batches={self.loss_batches}: expected at least 0 and 1."
      )
    if self.num_scored < 2:
      raise ValueError(
        f"eval.num_scored={self.num_scored}: expected 2 or more."
      )
    if self.world and not share_names(self.tasks):
      raise ValueError(
        f"eval.world={self.world} scores clips with sound, eval.tasks has"
        f" {self.tasks}: expected one of t2av, i2av, a2v or v2a in it."
      )
    for name in self.tasks:
      tasks.inference_task(name)

  def for_data(
    self, streams: tuple[str, ...], data: str, train_split: str
  ) -> "EvalConfig":
    """Checks that the model has the tasks' streams and the data the split.

    Returns:
      These settings; with `train_split` in place of the default split if the
      data have no such clips.

    Raises:
      ValueError: a stream or another split that does not exist.
    """
    for name in self.tasks:
      if set(tasks.inference_task(name).streams) - set(streams):
        raise ValueError(
          f"eval.tasks has '{name}', but the model has only {streams}."
        )
    if self.loss_every_steps or self.world:
      records.open_split(data, self.split)
    if not self.tasks:
      return self
    is_default = self.split == type(self).split
    if is_default and self.split not in records.read_metadata(data)["counts"]:
      if distributed.is_lead():
        print(
          f"{data} has no split '{self.split}': previews are of clips of"
          f" '{train_split}', which the model trains on."
        )
      return dataclasses.replace(self, split=train_split)
    records.open_split(data, self.split)
    return self

  def list_data(
    self, data: epath.PathLike
  ) -> list[tuple[epath.Path, ClipShape]]:
    """Returns the data sets to take clips from, and their shapes."""
    folders = records.list_buckets(data)
    metadata = [records.read_metadata(folder) for folder in folders]
    return [
      (folder, ClipShape.from_dict(x))
      for i, (folder, x) in enumerate(zip(folders, metadata, strict=True))
      if i == 0 or (self.all_shapes and self.split in x["counts"])
    ]

  def should_measure(self, step: int) -> bool:
    """Returns whether to compute the loss on the split after `step`."""
    return bool(self.loss_every_steps) and step % self.loss_every_steps == 0

  def should_run(self, step: int, num_steps: int) -> bool:
    """Returns whether to sample after `step` of `num_steps` steps."""
    is_due = step % self.every_steps == 0 or step == num_steps
    return bool(self.tasks) and is_due


def write_previews(
  pipeline: Pipeline,
  config: EvalConfig,
  data: epath.PathLike,
  workdir: epath.Path,
  log: MetricWriter,
  label: str = "",
  score: Score | None = None,
) -> None:
  """Samples held-out prompts into samples/STEP and TensorBoard.

  All processes sample, one decodes and writes. Those of images have no sound.

  Args:
    data: of clips of the pipeline's shape.
    label: of the shape, a folder below samples/STEP and in TensorBoard; "" is
      none.
    score: returns what is logged of the first `num_scored` clips of a task.
  """
  num = max(config.num_clips, config.num_scored if score else 0)
  clips, values = read_clips(data, config.split, num), {}
  folder = workdir / "samples" / str(pipeline.step) / label
  names = config.tasks
  if pipeline.shape.frames == 1:
    names = [n for n in names if "audio" not in tasks.inference_task(n).streams]
  for name in names:
    items = requests.from_clips(
      tasks.inference_task(name), clips,
      has_pictures=pipeline.plan.reads_references,
    )  # fmt: skip
    made = pipeline.generate(
      items, batch_size=len(items), finish=_decode_on_lead(pipeline)
    )
    if shown := made[: config.num_clips]:
      tag = f"{label}/{name}" if label else name
      captions = clips["caption"][: config.num_clips]
      _write(shown, captions, name, tag, pipeline.step, folder, log)
    if score:
      values |= score(name, made[: config.num_scored])
  if score:
    log.write_scalars(pipeline.step, values)


def _decode_on_lead(pipeline: Pipeline):
  """Returns a last stage of generation that decodes in one process only."""

  def decode(batch, latents: Mapping, shares: Mapping) -> list[GeneratedClip]:
    return stages.decode(pipeline, latents) if distributed.is_lead() else []

  return decode


def _write(
  made: list[GeneratedClip],
  captions: list[str],
  task: str,
  tag: str,
  step: int,
  folder: epath.Path,
  log: MetricWriter,
) -> None:
  """Writes the clips of a task, and their sound and a contact sheet."""
  for i, clip in enumerate(made):
    clip.save(folder / f"{task}_{i}.mp4")
    if clip.audio is not None:
      log.write_audio(f"{tag}/{i}", clip.audio, clip.sample_rate, step)
  rows = zip(captions, made, strict=True)
  sheet = contact_sheet.contact_sheet([(t, x.video, x.mel) for t, x in rows])
  contact_sheet.save_png(folder / f"{task}.png", sheet)
  log.write_image(tag, sheet, step)
