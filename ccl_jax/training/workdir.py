"""The workdir of a run: what it is, and whether data and model fit it."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from etils import epath

from ccl_jax import distributed, files
from ccl_jax.checkpoints import manager
from ccl_jax.codecs.api import Codecs
from ccl_jax.data import records
from ccl_jax.data.clip import ClipShape
from ccl_jax.data.mixture import list_shapes, list_sources

# Sections and keys that may change between two starts of one run.
MAY_CHANGE = (
  "checkpoint", "data.batch_tokens", "data.bucket_shares", "data.num_threads",
  "data.path", "data.sources", "encode",
  "eval", "grad_accumulation_steps", "init", "log", "mesh", "sampling",
  "sharding", "xla_options",
)  # fmt: skip


def prepare_workdir(
  workdir: epath.Path, config: Mapping[str, Any]
) -> ClipShape:
  """Claims the workdir and copies in what sampling needs from the data.

  Returns:
    The shape of the clips.

  Raises:
    ValueError: the data do not fit the model, the workdir belongs to another
      run, or its run was started on latents of other codecs.
  """
  section = config["data"]
  sources = list_sources(section["path"], section.get("sources", ()))
  data = epath.Path(sources[0].path)
  codecs = Codecs.load(data / "codecs")
  shape, *others = list_shapes(sources)
  num_latents = records.read_metadata(data)["shapes"]["audio"][0]
  check_model_fits(config["model"], codecs, shape, num_latents)
  clip = dataclasses.asdict(shape)
  if others:  # What may be sampled.
    clip["buckets"] = [(s.frames, *s.size) for s in (shape, *others)]
  may_change = MAY_CHANGE
  if config["optimizer"]["schedule"] == "constant":
    may_change += ("num_train_steps",)
  manager.claim_workdir(workdir, config, may_change)
  if distributed.is_lead():
    files.write_json(workdir / "clip.json", clip)
    if not (workdir / "codecs").exists():
      codecs.save(workdir / "codecs")
  distributed.barrier("the workdir has its codecs")
  if not codecs.equals(Codecs.load(workdir / "codecs")):
    raise ValueError(
      f"'{data}/codecs' made other latents than '{workdir}/codecs', which this"
      " run was trained on. Encode with --codecs, or choose another --workdir."
    )
  return shape


def check_model_fits(
  model: Mapping[str, Any], codecs: Codecs, shape: ClipShape, num_latents: int
) -> None:
  """Checks that the model's sizes are those of the latents.

  Args:
    num_latents: audio latents of a clip.

  Raises:
    ValueError: they differ; the message names each key.
  """
  sizes = {"text_width": (model["text_width"], codecs.text.width)}
  if video := model["video"]:
    sizes["video.channels"] = video["channels"], codecs.video.channels
  if audio := model["audio"]:
    sizes["audio.channels"] = audio["channels"], codecs.audio.channels
    exact = shape.audio_per_frame(codecs)
    # Data of early versions have a whole number of latents in each frame.
    possible = [
      c
      for c in (exact, round(exact))
      if shape.latent_shapes(codecs, c)["audio"][0] == num_latents
    ] or [exact]
    ours = audio["tokens_per_frame"]
    theirs = min(possible, key=lambda c: abs(c - ours))
    is_close = math.isclose(ours, theirs, rel_tol=1e-4)
    sizes["audio.tokens_per_frame"] = ours, ours if is_close else theirs
    fusion = model["fusion"]
    in_seconds = fusion.get("positions", "index") in ("seconds", "fine")
    # Where c is not whole, seconds are counted by it and not by fps.
    if in_seconds and ours == exact and not exact % 1:
      sizes["fusion.fps"] = fusion.get("fps", 25.0), shape.fps
  wrong = [
    f"model.{name} is {ours}, the data have {theirs}"
    for name, (ours, theirs) in sizes.items()
    if ours != theirs
  ]
  if wrong:
    raise ValueError(
      f"Model and data do not fit: {'; '.join(wrong)}. Change the config, or"
      " encode the clips again with it."
    )
