"""The workdir of a run, and checks that data and model fit it."""

import copy
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from etils import epath

from ccl_jax.array_types import STREAMS, audio_per_frame, audio_starts
from ccl_jax.checkpoints import run_config
from ccl_jax.codecs.api import Codecs
from ccl_jax.data import records
from ccl_jax.data.mixture import list_shapes, list_sources, main_path
from ccl_jax.processes import distributed
from ccl_jax.storage import text_files

# Sections and keys that may change between two starts of one run.
MAY_CHANGE = (
  "checkpoint", "data.batch_tokens", "data.bucket_shares", "data.num_threads",
  "data.path", "data.sources", "encode",
  "eval", "grad_accumulation_steps", "init", "log", "mesh", "sampling",
  "sharding", "xla_options",
)  # fmt: skip


def fit_to_data(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a config with the rates of its data, and says what changed.

  A model needs the number of audio latents in the time of a video latent, and
  for positions in seconds the rate itself. Users do not choose these.

  Raises:
    ValueError: there are no data.
  """
  config = copy.deepcopy(dict(config))
  audio, fusion = config["model"]["audio"], config["model"]["fusion"]
  data = epath.Path(main_path(config["data"]))
  metadata = records.read_metadata(data)
  if not audio:
    return config
  codecs = Codecs.load(data / "codecs")
  fps, ours = metadata["fps"], audio["tokens_per_frame"]
  frames, num_latents = (metadata["shapes"][s][0] for s in STREAMS)
  exact = audio_per_frame(fps, codecs.audio.rate, codecs.video.stride[0])
  # Data of early versions have a whole number of latents in each frame.
  possible = [
    c
    for c in (exact, float(round(exact)))
    if c and audio_starts(frames, c)[-1] == num_latents
  ] or [exact]
  theirs = min(possible, key=lambda c: abs(c - ours))
  changes = {}
  if not math.isclose(ours, theirs, rel_tol=1e-4):
    changes["audio", "tokens_per_frame"] = theirs
  in_seconds = fusion.get("positions", "index") in ("seconds", "fine")
  # Where c is not whole, seconds are counted by it and not by fps.
  is_counted_by_fps = in_seconds and theirs == exact and not exact % 1
  if is_counted_by_fps and fusion.get("fps", 25.0) != fps:
    changes["fusion", "fps"] = fps
  for (section, key), value in changes.items():
    config["model"][section][key] = value
    if distributed.is_lead():
      print(
        f"model.{section}.{key} is {value:.7g}, as the data have {fps:g} fps"
        f" and {codecs.audio.rate:g} audio latents a second."
      )
  return config


def check_workdir(workdir: epath.Path, config: Mapping[str, Any]) -> None:
  """Checks that `prepare_workdir` is possible; writes nothing.

  Raises:
    ValueError: the data do not fit the model, the workdir belongs to another
      run, or its run was started on latents of other codecs.
  """
  data = epath.Path(main_path(config["data"]))
  codecs = Codecs.load(data / "codecs")
  check_model_fits(config["model"], codecs)
  run_config.check(workdir, config, _may_change(config))
  saved = workdir / "codecs"
  if saved.exists() and not codecs.equals(Codecs.load(saved)):
    raise ValueError(
      f"'{data}/codecs' made other latents than '{saved}', which this"
      " run was trained on. Encode with --codecs, or choose another --workdir."
    )


def prepare_workdir(workdir: epath.Path, config: Mapping[str, Any]) -> None:
  """Claims the workdir and copies in what sampling needs from the data."""
  section = config["data"]
  sources = list_sources(section["path"], section.get("sources", ()))
  shape, *others = list_shapes(sources)
  clip = dataclasses.asdict(shape)
  if others:  # What may be sampled.
    clip["buckets"] = [(s.frames, *s.size) for s in (shape, *others)]
  run_config.claim(workdir, config, _may_change(config))
  if distributed.is_lead():
    text_files.write_json(workdir / "clip.json", clip)
    if not (workdir / "codecs").exists():
      Codecs.load(f"{sources[0].path}/codecs").save(workdir / "codecs")
  distributed.barrier("the workdir has its codecs")


def _may_change(config: Mapping[str, Any]) -> tuple[str, ...]:
  is_constant = config["optimizer"]["schedule"] == "constant"
  return (*MAY_CHANGE, *(("num_train_steps",) if is_constant else ()))


def check_model_fits(model: Mapping[str, Any], codecs: Codecs) -> None:
  """Raises ValueError with each size that differs from that of the latents."""
  sizes = {"text_width": (model["text_width"], codecs.text.width)}
  if video := model["video"]:
    sizes["video.channels"] = video["channels"], codecs.video.channels
  if audio := model["audio"]:
    sizes["audio.channels"] = audio["channels"], codecs.audio.channels
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
