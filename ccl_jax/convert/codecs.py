"""Converts weights of the codecs: PyTorch's files -> folders that open fast.

A model may be published in several sizes and with several naming schemes; both
are recognised from the file. If a licence restricts the use of weights, it is
logged when they are converted and when they are opened.
"""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from ccl_jax.array_types import PyTree
from ccl_jax.codecs import bigvgan as bigvgan_model
from ccl_jax.codecs import (
  clip,
  converted_weights,
  mmaudio_vae,
  umt5,
  wan_vae,
  wav2vec2,
)
from ccl_jax.convert import bigvgan, matching, mmaudio
from ccl_jax.convert import clip as clip_tables
from ccl_jax.convert import umt5 as umt5_tables
from ccl_jax.convert import wan_vae as wan_vae_tables
from ccl_jax.convert import wav2vec2 as wav2vec2_tables
from ccl_jax.convert.rules import Table
from ccl_jax.convert.state_dict import streamed_params
from ccl_jax.convert.torch_files import local_path, open_state_dict
from ccl_jax.params import nnx_utils, trees


@dataclasses.dataclass(frozen=True)
class PublishedModel:
  """A published model.

  Attributes:
    sizes: settings of the codec's class, one for each published size.
    module: the model's class.
    tables: settings -> {naming scheme: its table}.
    files: names of its file or folder where it is published.
    licence: of the weights.
    notice: warning that is logged when they are opened; "" for none.
  """

  sizes: tuple[Any, ...]
  module: nnx_utils.Make
  tables: Callable[[Any], Mapping[str, Table]]
  files: tuple[str, ...]
  licence: str
  notice: str = ""

  def shapes(self, settings: Any) -> PyTree:
    """Returns the parameters' shapes."""
    return nnx_utils.param_shapes(self.module, settings)


_NON_COMMERCIAL = "CC-BY-NC 4.0"
MODELS = {
  "wan-vae": PublishedModel(
    sizes=(wan_vae.PUBLISHED,),
    module=wan_vae.Autoencoder,
    tables=lambda _: {
      "wan": wan_vae_tables.WAN,
      "diffusers": wan_vae_tables.DIFFUSERS,
    },
    files=("Wan2.1_VAE.pth", "vae"),
    licence="Apache-2.0",
  ),
  "umt5": PublishedModel(
    sizes=(umt5.UMT5Config(),),
    module=umt5.UMT5,
    tables=lambda _: {
      "wan": umt5_tables.WAN,
      "transformers": umt5_tables.TRANSFORMERS,
    },
    files=("models_t5_umt5-xxl-enc-bf16.pth", "text_encoder"),
    licence="Apache-2.0",
  ),
  "clip": PublishedModel(
    sizes=(clip.CLIPVisionConfig(),),
    module=clip.CLIP,
    tables=lambda settings: {
      "wan": clip_tables.wan(settings.layers),
      "transformers": clip_tables.transformers(settings.layers),
      "transformers 5": clip_tables.transformers(settings.layers, prefix=""),
    },
    files=(
      "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth",
      "image_encoder",
    ),
    licence="MIT (open_clip); Apache-2.0 as part of Wan2.1",
  ),
  "mmaudio": PublishedModel(
    sizes=(mmaudio_vae.MMAUDIO_16K, mmaudio_vae.MMAUDIO_44K),
    module=mmaudio_vae.MMAudioVAE,
    tables=lambda _: {
      "mmaudio": mmaudio.MMAUDIO,
      "diffusers": mmaudio.DIFFUSERS,
    },
    files=("v1-16.pth", "v1-44.pth"),
    licence=_NON_COMMERCIAL,
    notice=(
      f"MMAudio's published weights are {_NON_COMMERCIAL}: what is made with"
      " them, latents and models trained on them included, is not for"
      " commercial use without their authors' consent."
    ),
  ),
  "wav2vec2": PublishedModel(
    sizes=(wav2vec2.BASE, wav2vec2.LARGE, wav2vec2.LARGE_PRE_NORM),
    module=wav2vec2.Wav2Vec2,
    tables=wav2vec2_tables.tables,
    files=("model.safetensors", "pytorch_model.bin"),
    licence="Apache-2.0 (transformers' folders), MIT (fairseq's files)",
  ),
  "bigvgan": PublishedModel(
    sizes=(bigvgan_model.BIGVGAN_16K, bigvgan_model.BIGVGAN_44K),
    module=bigvgan_model.BigVGAN,
    tables=lambda _: {
      "bigvgan": bigvgan.BIGVGAN,
      "parametrized": bigvgan.PARAMETRIZED,
      "diffusers": bigvgan.DIFFUSERS,
    },
    files=("best_netG.pt", "bigvgan_generator.pt"),
    licence=f"MIT (NVIDIA's); {_NON_COMMERCIAL} (16 kHz, as MMAudio's)",
    notice=(
      "NVIDIA's BigVGAN v2 is MIT; the 16 kHz best_netG.pt is published with"
      f" MMAudio, whose weights are {_NON_COMMERCIAL}."
    ),
  ),
}


def convert(
  name: str, path: epath.PathLike, output: epath.PathLike
) -> dict[str, Any]:
  """Writes a `codecs.converted_weights` folder from PyTorch files.

  Args:
    name: a key of MODELS.
    path: a file, a folder of shards, or one with the model's file in it.

  Returns:
    The folder's metadata.

  Raises:
    ValueError: files that cannot be read or are not of the model, or too little
      space.
  """
  model = MODELS[name]
  path = find_weights(path, model.files)
  state_dict = open_state_dict(path)
  size, scheme = matching.recognise(
    state_dict.shapes, dict(enumerate(model.sizes)), model.tables, model.shapes
  )
  settings = model.sizes[size]
  table = model.tables(settings)[scheme]
  params = streamed_params(state_dict, table, model.shapes(settings))
  about = {
    "model": name,
    "settings": dataclasses.asdict(settings),
    "layout": scheme,
    "parameters": trees.count(params),
    "licence": model.licence,
    "notice": model.notice,
    "source": _fingerprint(path),
  }
  converted_weights.warn_once(model.notice)
  converted_weights.write(output, params, about)
  return converted_weights.read_metadata(output)


def open_weights(name: str, path: epath.PathLike) -> epath.Path:
  """Returns the folder of a model for `codecs.converted_weights`.

  PyTorch's files are converted the first time, into a folder beside them
  (FILE.ccl), or in $CCL_CACHE where that is set.

  Args:
    name: a key of MODELS; "wan_vae" is "wan-vae".
    path: such a folder, or as in `convert`.

  Raises:
    ValueError: no such model or file, or weights of another model.
  """
  name = name.replace("_", "-")
  if name not in MODELS:
    raise ValueError(f"Unknown model {name!r}; known: {', '.join(MODELS)}.")
  model = MODELS[name]
  if converted_weights.exists(path):
    found = converted_weights.read_metadata(path)["model"]
    if found != name:
      raise ValueError(f"'{path}' has the weights of {found}, not of {name}.")
    converted_weights.warn_once(model.notice)
    return epath.Path(path)
  path = find_weights(path, model.files)
  folder = _cache_folder(path)
  about = {}
  if converted_weights.exists(folder):
    about = converted_weights.read_metadata(folder)
  if about.get("model") != name or about.get("source") != _fingerprint(path):
    try:
      convert(name, path, folder)
    except OSError as error:
      raise ValueError(
        f"'{folder}' cannot be written ({error}); set CCL_CACHE to a folder"
        " that can."
      ) from error
  converted_weights.warn_once(model.notice)
  return folder


def find_weights(path: epath.PathLike, names: tuple[str, ...]) -> pathlib.Path:
  """Returns `path`, or the first of `names` in it; ValueError without it."""
  path = local_path(path)
  if not path.exists():
    raise ValueError(f"No file or folder '{path}'.")
  inside = [path / name for name in names if (path / name).exists()]
  return inside[0] if inside else path


def _cache_folder(path: pathlib.Path) -> epath.Path:
  """Returns where the converted weights of a file are kept."""
  path = path.resolve()
  if not (base := os.environ.get("CCL_CACHE")):
    return epath.Path(f"{path}.ccl")
  digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
  return epath.Path(base) / f"{path.name}-{digest}.ccl"


def _fingerprint(path: pathlib.Path) -> dict[str, Any]:
  """Returns path, bytes and time of the last change, to notice changes."""
  inside = sorted(path.iterdir()) if path.is_dir() else [path]
  stats = [file.stat() for file in inside if file.is_file()]
  return {
    "path": str(path.resolve()),
    "bytes": sum(stat.st_size for stat in stats),
    "changed": max((stat.st_mtime_ns for stat in stats), default=0),
  }
