"""Held-out clips that are sampled while a model trains."""

from collections.abc import Callable, Mapping, Sequence

from etils import epath

from ccl_jax.data import contact_sheet
from ccl_jax.data.clip import GeneratedClip
from ccl_jax.data.loader import read_clips
from ccl_jax.diffusion import tasks
from ccl_jax.generation import requests, stages
from ccl_jax.generation.eval_config import EvalConfig
from ccl_jax.generation.pipeline import Pipeline
from ccl_jax.processes import distributed
from ccl_jax.training.log import MetricWriter

# Task and clips, which only process 0 has -> name in the log -> value.
Score = Callable[[str, Sequence[GeneratedClip]], Mapping[str, float]]


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

  def decode(batch, latents, shares):
    return stages.decode(pipeline, latents) if distributed.is_lead() else []

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
    made = pipeline.generate(items, batch_size=len(items), finish=decode)
    if shown := made[: config.num_clips]:
      tag = f"{label}/{name}" if label else name
      captions = clips["caption"][: config.num_clips]
      _write(shown, captions, name, tag, pipeline.step, folder, log)
    if score:
      values |= score(name, made[: config.num_scored])
  if score:
    log.write_scalars(pipeline.step, values)


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
      log.board.add_audio(f"{tag}/{i}", clip.audio, step, clip.sample_rate)
  rows = zip(captions, made, strict=True)
  sheet = contact_sheet.contact_sheet([(t, x.video, x.mel) for t, x in rows])
  contact_sheet.save_png(folder / f"{task}.png", sheet)
  log.board.add_image(tag, sheet, step, dataformats="HWC")
