"""A run's parameters as a folder of PyTorch, in the layout of diffusers.

    transformer/   config.json, diffusion_pytorch_model*.safetensors
    scheduler/     scheduler_config.json, of diffusers' UniPC
    run/           config.json, clip.json, codecs/ of the run
    README.md      the model card

With part="all" it is the whole model, which `convert.torch_model` runs and
`dit.from_export` reads back; with part="video" the video stream alone, without
what it reads from the other, as diffusers' WanTransformer3DModel.

Arrays go one by one from the checkpoint to the file, a row of stacked layers at
a time. A chunk of the checkpoint is read as a whole, 256 MiB at most.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath

from ccl_jax import trees
from ccl_jax.convert import ccl, model_card, safetensors_writer, wan, workdirs
from ccl_jax.convert.load import dump, dumped_shapes
from ccl_jax.convert.rules import Table
from ccl_jax.files import replacing

FOLDER, RUN = "transformer", "run"
CLASS, VERSION = "CCL", 1
ADDED = ("_class_name", "ccl_version", "step", "sampling", "clip")
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}
PARTS = ("all", "video")
_STEM = "diffusion_pytorch_model"


def to_torch(
  checkpoint: epath.PathLike,
  output: epath.PathLike,
  *,
  step: int | None = None,
  average: bool = True,
  dtype: str = "float32",
  shard_size: int = 5 * 10**9,
  part: str = "all",
) -> dict[str, Any]:
  """Writes the folder, whole or not at all; returns what the card tells.

  Args:
    checkpoint: a workdir, or the folder of one of its steps.
    output: local, or in a bucket; then it is made on a local disk and copied.
    step: of the checkpoint; None takes the newest.
    average: the moving average, where a parameter has one.
    dtype: of all arrays, one of DTYPES.
    shard_size: bytes in a file.
    part: one of PARTS.

  Raises:
    ValueError: no such checkpoint or one that is damaged, an unknown dtype or
      part, or too little space.
  """
  for name, value, known in (("dtype", dtype, DTYPES), ("part", part, PARTS)):
    if value not in known:
      raise ValueError(f"{name} '{value}': expected one of {', '.join(known)}.")
  workdir, step = workdirs.locate(checkpoint, step)
  run = workdirs.open_run(workdir)
  params, step, averaged = run.params(step, average)
  table, config = _whole(run, step) if part == "all" else _video(run)
  if part != "all":
    params = {p: x for p, x in params.items() if p.startswith(f"{part}/")}
  tree = trees.unflatten(params)
  shapes = dumped_shapes(tree, table, np.dtype(DTYPES[dtype]))
  about = {
    "class": config["_class_name"],
    "step": step,
    "parameters": trees.count(tree),
    "dtype": dtype,
    "averaged": averaged,
  }
  with replacing(output) as partial:
    safetensors_writer.write(
      partial / FOLDER, _STEM, shapes, dump(tree, table), shard_size
    )
    scheduler = partial / "scheduler" / "scheduler_config.json"
    _write_json(scheduler, _scheduler(run.config))
    if part == "all":
      workdirs.copy_kept(workdir, partial / RUN)
    (partial / "README.md").write_text(model_card.text(run, about))
    # Last, so that in a bucket too it is there only when all is.
    _write_json(partial / FOLDER / "config.json", config)
  return about


def read_config(path: pathlib.Path) -> dict[str, Any]:
  """transformer/config.json of an exported folder.

  Raises:
    ValueError: it is none, of the video stream alone, or of another version.
  """
  file = path / FOLDER / "config.json"
  try:
    config = json.loads(file.read_text())
    found = config["_class_name"]
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f"'{path}' has no {FOLDER}/config.json of a model: expected what"
      " to-torch wrote."
    ) from error
  if found != CLASS:
    raise ValueError(
      f"'{path}' is a {found}, not a {CLASS}; for Wan2.1's: --model=wan."
    )
  if config.get("ccl_version") != VERSION:
    raise ValueError(
      f"'{file}' is of ccl_version {config.get('ccl_version')}; this program"
      f" reads {VERSION}."
    )
  return config


def _whole(run: workdirs.Run, step: int) -> tuple[Table, dict[str, Any]]:
  """Table and config of the whole model."""
  config = {
    "_class_name": CLASS,
    "ccl_version": VERSION,
    "step": step,
    **run.model,
    "sampling": run.config.get("sampling", {}),
    "clip": run.clip,
  }
  return ccl.table(run.model), config


def _video(run: workdirs.Run) -> tuple[Table, dict[str, Any]]:
  """Table and config of diffusers' WanTransformer3DModel.

  Raises:
    ValueError: there is no video stream.
  """
  video = run.model["video"]
  if video is None:
    raise ValueError(f"'{run.workdir}' has no video stream to export.")
  image_width = video.get("image_width") or None
  config = {
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
  return wan.tables(run.model)["diffusers"], config


def _scheduler(config: Mapping[str, Any]) -> dict[str, Any]:
  """diffusers' UniPC as `diffusion.solvers` has it."""
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


def _write_json(path: pathlib.Path, value: Mapping[str, Any]) -> None:
  path.parent.mkdir(exist_ok=True)
  path.write_text(json.dumps(dict(value), indent=2) + "\n")
