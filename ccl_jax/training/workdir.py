"""The workdir of a run: what it is, and whether data and model fit it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from etils import epath

from ccl_jax import distributed, files
from ccl_jax.checkpoints import manager
from ccl_jax.codecs.api import Codecs
from ccl_jax.data import records
from ccl_jax.data.clip import ClipShape

# Sections and keys that may change between two starts of one run.
MAY_CHANGE = (
  "checkpoint", "data.num_threads", "data.path", "encode", "eval",
  "grad_accumulation_steps", "init", "log", "mesh", "sampling", "sharding",
  "xla_options",
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
  data = epath.Path(config["data"]["path"])
  codecs = Codecs.load(data / "codecs")
  shape = ClipShape.from_dict(records.read_metadata(data))
  check_model_fits(config["model"], codecs, shape)
  may_change = MAY_CHANGE
  if config["optimizer"]["schedule"] == "constant":
    may_change += ("num_train_steps",)
  manager.claim_workdir(workdir, config, may_change)
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


def check_model_fits(
  model: Mapping[str, Any], codecs: Codecs, shape: ClipShape
) -> None:
  """Checks that the model's sizes are those of the latents.

  Raises:
    ValueError: they differ; the message names each key.
  """
  latents = shape.latent_shapes(codecs)
  frames, samples = latents["video"][0], latents["audio"][0]
  sizes = {"text_width": (model["text_width"], codecs.text.width)}
  if video := model["video"]:
    sizes["video.channels"] = video["channels"], codecs.video.channels
  if audio := model["audio"]:
    sizes["audio.channels"] = audio["channels"], codecs.audio.channels
    per_frame = samples // frames
    sizes["audio.tokens_per_frame"] = audio["tokens_per_frame"], per_frame
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
