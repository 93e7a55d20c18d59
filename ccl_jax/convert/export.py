"""A run's parameters as a PyTorch folder, laid out as diffusers' are.

    transformer/   config.json, diffusion_pytorch_model*.safetensors
    scheduler/     scheduler_config.json, of diffusers' UniPC
    run/           config.json, clip.json, codecs/ of the run
    README.md      the model card

With component="all" it holds the full model, which `convert.torch_model` runs
and `transformer.from_export` reads back. With component="video" it holds the
video stream without its cross-modal layers, as diffusers'
WanTransformer3DModel.

layout="single" writes one file, `ccl.safetensors`, with run/ and README.md
beside it: the video part has Wan's own names, the config is in the header.

Arrays go one by one from the checkpoint to the file, stacked layers row by row.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath

from ccl_jax.checkpoints.restore import find_checkpoint
from ccl_jax.config import check_choice, upgrade
from ccl_jax.convert import (
  ccl,
  lora_writer,
  loras,
  model_card,
  safetensors_writer,
  wan,
  workdirs,
)
from ccl_jax.convert.state_dict import iter_state_dict, state_dict_shapes
from ccl_jax.convert.torch_files import open_state_dict
from ccl_jax.params import trees
from ccl_jax.storage.files import replacing
from ccl_jax.storage.text_files import write_json

TRANSFORMER, RUN = "transformer", "run"  # folders
_CONFIG = f"{TRANSFORMER}/config.json"
CLASS, VERSION = "CCL", 1
# Keys of transformer/config.json beside those of the `model` section.
ADDED_KEYS = ("_class_name", "ccl_version", "step", "sampling", "clip")
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}
COMPONENTS = ("all", "video", "lora")
LAYOUTS = ("folder", "single")
SINGLE = "ccl"  # stem of the file of layout="single"
_STEM = "diffusion_pytorch_model"


def to_torch(
  workdir: epath.PathLike,
  output: epath.PathLike,
  *,
  step: int | str | None = None,
  ema: bool = True,
  dtype: str = "float32",
  shard_size: int = 5 * 10**9,
  component: str = "all",
  lora_style: str = "diffusers",
  layout: str = "folder",
) -> dict[str, Any]:
  """Writes the folder, completely or not at all; returns facts about it.

  Args:
    workdir: of a run, or the folder of one of its checkpoints.
    output: local, or in a bucket; then it is made on a local disk and copied.
    step: of the checkpoint, or "best"; None takes the newest.
    ema: take the moving average of each parameter that has one.
    dtype: of all arrays, one of DTYPES.
    shard_size: most bytes of arrays in a file.
    component: one of COMPONENTS.
    lora_style: of the names of component="lora", one of `lora_names.STYLES`.
    layout: one of LAYOUTS; a single file is never split.

  Raises:
    ValueError: no such checkpoint or a damaged one, an unknown dtype or
      component, or too little space.
  """
  check_choice("dtype", dtype, DTYPES)
  check_choice("component", component, COMPONENTS)
  check_choice("layout", layout, LAYOUTS)
  path, step = workdirs.split_step(workdir, step)
  run = workdirs.open_workdir(path)
  if component == "lora":
    if layout != LAYOUTS[0]:
      raise ValueError(
        "--component=lora is one file already: leave out --layout."
      )
    return _write_lora(run, output, step, ema, dtype, lora_style)
  return _write_model(
    run, output, step, ema, dtype, component, layout, shard_size
  )


def _write_model(
  run: workdirs.Workdir,
  output: epath.PathLike,
  step: int | str | None,
  ema: bool,
  dtype: str,
  component: str,
  layout: str,
  shard_size: int,
) -> dict[str, Any]:
  """Writes the model of a run, or its video part; returns facts about it."""
  params, step, is_ema = run.params(step, ema)
  is_single = layout == "single"
  if component == "video":
    config = _video_config(run)
    params = {p: x for p, x in params.items() if p.startswith("video/")}
    table = wan.tables(run.model)["wan" if is_single else "diffusers"]
  else:
    config = _joint_config(run, step)
    table = ccl.table(run.model, is_single)
  tree = trees.unflatten(params)
  shapes = state_dict_shapes(tree, table, np.dtype(DTYPES[dtype]))
  about = {
    "class": config["_class_name"],
    "step": step,
    "parameters": trees.count(tree),
    "dtype": dtype,
    "is_ema": is_ema,
    "layout": layout,
  }
  arrays = iter_state_dict(tree, table)
  with replacing(output) as partial:
    if is_single:
      header = {"config": json.dumps(config, sort_keys=True)}
      safetensors_writer.write(partial, SINGLE, shapes, arrays, metadata=header)
    else:
      folder = partial / TRANSFORMER
      safetensors_writer.write(folder, _STEM, shapes, arrays, shard_size)
      scheduler = _scheduler_config(run.config)
      write_json(partial / "scheduler" / "scheduler_config.json", scheduler)
    if component == "all":
      workdirs.copy_run_files(run.path, partial / RUN)
    (partial / "README.md").write_text(model_card.text(run, about))
    if not is_single:
      # Last, so that in a bucket it exists only when all other files do.
      write_json(partial / _CONFIG, config)
  return about


def _write_lora(
  run: workdirs.Workdir,
  output: epath.PathLike,
  step: int | str | None,
  ema: bool,
  dtype: str,
  style: str,
) -> dict[str, Any]:
  """Writes the LoRA of a run alone; returns facts about it."""
  _, step = find_checkpoint(run.path, step)
  changes = loras.read_run(run.path, run.model, step, ema)
  base = run.config.get("init", {}).get("from_runs", ())
  header = {"step": str(step), "base": json.dumps(base)}
  about = {
    "step": step,
    "parameters": trees.count(changes),
    "dtype": dtype,
    "is_ema": ema and run.config["optimizer"]["ema_decay"] > 0,
  }
  card = model_card.lora_text(run, about, changes, style)
  names = lora_writer.write(
    output, run.model, changes, style, DTYPES[dtype], header, card
  )
  kind = f"a LoRA of {names} layers, named as in {style},"
  return {"class": kind, **about}


def read_config(path: pathlib.Path) -> dict[str, Any]:
  """Returns the config of an export, under today's key names.

  Args:
    path: of the folder, or of a single file.

  Raises:
    ValueError: it is not an export, or one of the video stream alone, or of
      another version.
  """
  is_single = path.is_file()
  where = "config in its header" if is_single else f"{_CONFIG} of a model"
  try:
    if is_single:
      text = open_state_dict(path).metadata["config"]
    else:
      text = (path / _CONFIG).read_text()
    config = json.loads(text)
    class_name = config["_class_name"]
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f"'{path}' has no {where}: expected a folder that to-torch wrote, or the"
      f" {SINGLE}.safetensors of --layout=single."
    ) from error
  if class_name != CLASS:
    raise ValueError(
      f"'{path}' is a {class_name}, not a {CLASS}; for Wan2.1's pass"
      " --model=wan."
    )
  if (version := config.get("ccl_version")) != VERSION:
    raise ValueError(f"'{path}' has ccl_version {version}, expected {VERSION}.")
  sections = upgrade({"model": config, "sampling": config.get("sampling", {})})
  return sections["model"] | {"sampling": sections["sampling"]}


def _joint_config(run: workdirs.Workdir, step: int) -> dict[str, Any]:
  """Returns the config of the full model, for `torch_model.CCL`."""
  return {
    "_class_name": CLASS,
    "ccl_version": VERSION,
    "step": step,
    **run.model,
    "sampling": run.config.get("sampling", {}),
    "clip": run.clip,
  }


def _video_config(run: workdirs.Workdir) -> dict[str, Any]:
  """Returns the config of diffusers' WanTransformer3DModel.

  Raises:
    ValueError: the run has no video stream, or it is not Wan's.
  """
  video = run.model["video"]
  if video is None:
    raise ValueError(f"'{run.path}' has no video stream to export.")
  ccl.check_is_wan(run.model)
  image_width = video.get("image_width") or None
  return {
    "_class_name": "WanTransformer3DModel",
    "patch_size": [1, video["patch"], video["patch"]],
    "num_attention_heads": video["heads"],
    "attention_head_dim": video["width"] // video["heads"],
    "in_channels": video["channels"] + video.get("condition_channels", 0),
    "out_channels": video["channels"],
    "text_dim": run.model["text_width"],
    "freq_dim": video.get("frequency_dim", 256),
    "ffn_dim": video["ffn"],
    "num_layers": run.model["num_layers"],
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "eps": 1e-6,
    "image_dim": image_width,
    "added_kv_proj_dim": image_width and video["width"],
    "rope_max_seq_len": 1024,
    "pos_embed_seq_len": None,
  }


def _scheduler_config(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the config of diffusers' UniPC that equals `diffusion.solvers`."""
  return {
    "_class_name": "UniPCMultistepScheduler",
    "num_train_timesteps": 1000,
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "flow_shift": config.get("sampling", {}).get("shift", 5.0),
    "solver_order": 2,
    "solver_type": "bh2",
    "lower_order_final": True,
    "predict_x0": True,
  }
