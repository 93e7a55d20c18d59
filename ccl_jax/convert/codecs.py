"""The codecs' models: files of PyTorch become folders that open fast.

A model may be published in several sizes and several layouts of names; the file
tells which it is. What weights may be used for is told when they are converted
and when they are opened.
"""

import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from ccl_jax import nnx_utils, trees
from ccl_jax.array_types import PyTree
from ccl_jax.codecs import bigvgan as bigvgan_model
from ccl_jax.codecs import clip, converted_weights, mmaudio_vae, umt5, wan_vae
from ccl_jax.convert import bigvgan, mmaudio, rules
from ccl_jax.convert import clip as clip_tables
from ccl_jax.convert import umt5 as umt5_tables
from ccl_jax.convert import wan_vae as wan_vae_tables
from ccl_jax.convert.load import lazy
from ccl_jax.convert.rules import Table
from ccl_jax.convert.torch_files import LazyStateDict, local_path, open_tensors


@dataclasses.dataclass(frozen=True)
class Model:
  """A published model.

  Attributes:
    sizes: settings of the codec's class, one of which a file has.
    shapes: settings -> nested dict of the parameters' shapes.
    tables: settings -> {name of a layout: its table}.
    files: names that it has in the folders it is published in.
    licence: what the weights may be used for.
    notice: told whenever they are opened; "" where nothing need be.
  """

  sizes: tuple[Any, ...]
  shapes: Callable[[Any], PyTree]
  tables: Callable[[Any], Mapping[str, Table]]
  files: tuple[str, ...]
  licence: str
  notice: str = ""


_NON_COMMERCIAL = "CC-BY-NC 4.0"
MODELS = {
  "wan-vae": Model(
    sizes=(wan_vae.PUBLISHED,),
    shapes=wan_vae.param_shapes,
    tables=lambda _: {
      "wan": wan_vae_tables.WAN,
      "diffusers": wan_vae_tables.DIFFUSERS,
    },
    files=("Wan2.1_VAE.pth", "vae"),
    licence="Apache-2.0",
  ),
  "umt5": Model(
    sizes=(umt5.Settings(),),
    shapes=lambda settings: umt5.describe(settings)[1],
    tables=lambda _: {
      "wan": umt5_tables.WAN,
      "transformers": umt5_tables.TRANSFORMERS,
    },
    files=("models_t5_umt5-xxl-enc-bf16.pth", "text_encoder"),
    licence="Apache-2.0",
  ),
  "clip": Model(
    sizes=(clip.Settings(),),
    shapes=lambda settings: clip.describe(settings)[1],
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
  "mmaudio": Model(
    sizes=(mmaudio_vae.MMAUDIO_16K, mmaudio_vae.MMAUDIO_44K),
    shapes=functools.partial(nnx_utils.param_shapes, mmaudio_vae.MMAudioVAE),
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
  "bigvgan": Model(
    sizes=(bigvgan_model.BIGVGAN_16K, bigvgan_model.BIGVGAN_44K),
    shapes=functools.partial(nnx_utils.param_shapes, bigvgan_model.BigVGAN),
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


def find(name: str) -> tuple[str, Model]:
  """A model by its name; "wan_vae" is "wan-vae".

  Raises:
    ValueError: an unknown name.
  """
  name = name.replace("_", "-")
  if name not in MODELS:
    raise ValueError(f"Unknown model {name!r}; known: {', '.join(MODELS)}.")
  return name, MODELS[name]


def convert(
  name: str,
  path: epath.PathLike,
  output: epath.PathLike,
  model: Model | None = None,
) -> dict[str, Any]:
  """Writes a `codecs.converted_weights` folder from PyTorch files.

  Returns its `about`.

  Args:
    path: a file, a folder of shards, or one that has the model's file.
    model: of other sizes than the published ones.

  Raises:
    ValueError: files that cannot be read or are not of the model, or too little
      space.
  """
  name, known = find(name)
  model = model or known
  path = locate(path, model.files)
  tensors = open_tensors(path)
  settings, layout = choose(tensors, model)
  shapes = model.shapes(settings)
  params = lazy(tensors, model.tables(settings)[layout], shapes)
  about = {
    "model": name,
    "settings": dataclasses.asdict(settings),
    "layout": layout,
    "parameters": trees.count(shapes),
    "licence": model.licence,
    "notice": model.notice,
    "source": _stamp(path),
  }
  converted_weights.tell(model.notice)
  converted_weights.write(output, params, about)
  return converted_weights.about(output)


def open_weights(name: str, path: epath.PathLike) -> epath.Path:
  """The folder for `codecs.converted_weights` of a model.

  A folder that is one already is returned as it is. Other files are converted
  once, into a folder beside them (FILE.ccl), or in $CCL_CACHE where that is
  set.

  Raises:
    ValueError: no such model or file, or weights of another model.
  """
  name, model = find(name)
  if converted_weights.exists(path):
    found = converted_weights.about(path)["model"]
    if found != name:
      raise ValueError(f"'{path}' has the weights of {found}, not of {name}.")
    converted_weights.tell(model.notice)
    return epath.Path(path)
  path = locate(path, model.files)
  folder = _beside(path)
  about = (
    converted_weights.about(folder) if converted_weights.exists(folder) else {}
  )
  if about.get("model") != name or about.get("source") != _stamp(path):
    try:
      convert(name, path, folder)
    except OSError as error:
      raise ValueError(
        f"'{folder}' cannot be written ({error}); set CCL_CACHE to a folder"
        " that can."
      ) from error
  converted_weights.tell(model.notice)
  return folder


def choose(tensors: LazyStateDict, model: Model) -> tuple[Any, str]:
  """(settings, layout) that the arrays are of.

  Raises:
    ValueError: none; it tells how they differ from the nearest.
  """
  candidates = []
  for settings in model.sizes:
    ours = trees.flatten(model.shapes(settings))
    for layout, table in model.tables(settings).items():
      misfit = rules.misfit(table, tensors.shapes, ours)
      candidates.append(
        (misfit, len(candidates), settings, layout, table, ours)
      )
  first = None
  for _, _, settings, layout, table, ours in sorted(candidates)[:4]:
    try:
      rules.match(table, tensors.shapes, ours)
      return settings, layout
    except ValueError as error:
      first = first or error
  raise ValueError(f"'{tensors.origin}': {first}") from first


def locate(path: epath.PathLike, names: tuple[str, ...]) -> pathlib.Path:
  """`path`, or where in that folder one of the names is.

  Raises:
    ValueError: nothing there.
  """
  path = local_path(path)
  if not path.exists():
    raise ValueError(f"No file or folder '{path}'.")
  inside = [path / name for name in names if (path / name).exists()]
  return inside[0] if inside else path


def _beside(path: pathlib.Path) -> epath.Path:
  path = path.resolve()
  if not (base := os.environ.get("CCL_CACHE")):
    return epath.Path(f"{path}.ccl")
  where = hashlib.sha256(str(path).encode()).hexdigest()[:8]
  return epath.Path(base) / f"{path.name}-{where}.ccl"


def _stamp(path: pathlib.Path) -> dict[str, Any]:
  """Which files they were: path, bytes, time of the last change."""
  inside = sorted(path.iterdir()) if path.is_dir() else [path]
  stats = [file.stat() for file in inside if file.is_file()]
  return {
    "path": str(path.resolve()),
    "bytes": sum(stat.st_size for stat in stats),
    "changed": max((stat.st_mtime_ns for stat in stats), default=0),
  }
