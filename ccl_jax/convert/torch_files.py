"""Opens PyTorch's weights as state dicts that are read array by array.

  PATH.safetensors            by the library's memory map
  PATH.pth, .pt, .bin, .ckpt  torch.load(weights_only=True, mmap=True)
  FOLDER                      with one of them, or with shards and their index
                              (`*.safetensors.index.json`, `*.bin.index.json`)

A pickle can contain code; such a file is refused and its code never run. Arrays
keep their dtypes; bfloat16 is that of ml_dtypes.
"""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import ml_dtypes
import numpy as np
from etils import epath

from ccl_jax.convert import torch_pickles
from ccl_jax.storage.files import is_remote
from ccl_jax.storage.text_files import parse_object, read_text

_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")
MAX_MAPPED_BYTES = 2**28  # that are read before a file is mapped again
# Arrays beside quantized ones, as ModelOpt, ComfyUI and others call them.
_SCALE = re.compile(
  r"(weight|input)_scale(_\d|_inv)?$|scale_(weight|input)$|comfy_quant$"
)
_QUANTIZED = (
  "the weights are quantized (mxfp8, nvfp4 or alike). Take the model's file in"
  " bfloat16, float16 or float32."
)
PREFIXES = (
  "model.diffusion_model.", "diffusion_model.", "module.", "_orig_mod.",
  "transformer.",
)  # fmt: skip
SAFETENSORS_DTYPES = {
  "F64": np.float64, "F32": np.float32, "F16": np.float16,
  "BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn,
  "F8_E5M2": ml_dtypes.float8_e5m2, "I64": np.int64, "I32": np.int32,
  "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_,
  "U16": np.uint16, "U32": np.uint32, "U64": np.uint64,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class LazyStateDict:
  """A state dict whose arrays are read on access.

  Attributes:
    origin: path of the file, for messages.
    shapes: name -> ShapeDtypeStruct, in the order of the file.
    read: name -> array.
    metadata: everything else in the file, as text.
  """

  origin: str
  shapes: dict[str, jax.ShapeDtypeStruct]
  read: Callable[[str], np.ndarray]
  metadata: dict[str, str] = dataclasses.field(default_factory=dict)


def from_torch(
  state: Mapping[str, Any], origin: str = "memory"
) -> LazyStateDict:
  """Returns a torch `state_dict`; on the meta device only shapes are known.

  Raises:
    ValueError: a tensor that is not dense, or of a dtype that is not read.
  """
  shapes = {}
  for name, x in state.items():
    if f"{x.layout}" != "torch.strided":
      raise ValueError(
        f"'{origin}' has '{name}' as {x.layout}, expected a dense tensor: save"
        " its to_dense()."
      )
    try:
      dtype = torch_pickles.numpy_dtype(x.dtype)
      shapes[name] = jax.ShapeDtypeStruct(tuple(x.shape), dtype)
    except TypeError as error:  # numpy lacks it.
      raise _unknown_dtype(origin, name, str(x.dtype)) from error
  return LazyStateDict(
    origin, shapes, lambda name: torch_pickles.to_numpy(state[name])
  )


def local_path(path: epath.PathLike) -> pathlib.Path:
  """Returns a path that can be memory-mapped; ValueError for a bucket's."""
  if is_remote(path):
    raise ValueError(
      f"'{path}' is in a bucket, but weights are memory-mapped: copy it to a"
      " disk first."
    )
  return pathlib.Path(path)


def open_state_dict(path: epath.PathLike) -> LazyStateDict:
  """Returns the state dict of a file or folder, without reading its arrays.

  Raises:
    ValueError: the file is missing, in a bucket, of another format, cut short,
      quantized, or a pickle with code; or index and shards differ.
  """
  path = local_path(path)
  if path.is_dir():
    return _open_folder(path)
  if not path.exists():
    raise ValueError(f"No file '{path}'.")
  if path.suffix == ".safetensors":
    return _open_safetensors(path)
  if path.suffix in _SUFFIXES:
    return open_torch_file(path)
  raise ValueError(
    f"'{path}': expected a .safetensors, {', '.join(_SUFFIXES)} file, or a"
    " folder with them."
  )


def without_prefixes(state: LazyStateDict) -> LazyStateDict:
  """Returns a state dict without the prefixes that all of its names have.

  Programs that train and load models put them before the model's own names; it
  is printed which were left out.
  """
  prefix, names = "", list(state.shapes)
  while found := [
    p for p in PREFIXES if names and all(n.startswith(p) for n in names)
  ]:
    prefix += found[0]
    names = [n.removeprefix(found[0]) for n in names]
  if not prefix:
    return state
  print(
    f"'{state.origin}': all names begin with '{prefix}', which is left out."
  )
  return dataclasses.replace(
    state,
    shapes=dict(zip(names, state.shapes.values(), strict=True)),
    read=lambda name: state.read(prefix + name),
  )


class _MappedFile:
  """A reader of a memory-mapped file, which it maps again now and then.

  Pages that were read count as memory in use until their mapping is closed.
  """

  def __init__(
    self, map_file: Callable[[], Any], read: Callable[[Any, str], np.ndarray]
  ):
    self.map_file, self.read = map_file, read
    self.file, self.size = map_file(), 0

  def __call__(self, name: str) -> np.ndarray:
    if self.size > MAX_MAPPED_BYTES:
      self.file, self.size = None, 0  # close before opening again
      self.file = self.map_file()
    array = self.read(self.file, name)
    self.size += array.nbytes
    return array


def _open_safetensors(path: pathlib.Path) -> LazyStateDict:
  import safetensors

  def map_file():
    return safetensors.safe_open(path, framework="np")

  try:
    read = _MappedFile(map_file, lambda file, name: file.get_tensor(name))
    file, names = read.file, read.file.keys()
    parts = {name: file.get_slice(name) for name in names}
    metadata = dict(file.metadata() or {})
  except (safetensors.SafetensorError, OSError) as error:
    reason = torch_pickles.first_line(error)
    raise ValueError(
      f"'{path}' is not a safetensors file, or cut short: {reason}"
    ) from error
  shapes = {}
  for name, part in parts.items():
    if (dtype := part.get_dtype()) not in SAFETENSORS_DTYPES:
      raise _unknown_dtype(str(path), name, dtype)
    shapes[name] = jax.ShapeDtypeStruct(
      tuple(part.get_shape()), SAFETENSORS_DTYPES[dtype]
    )
  return LazyStateDict(str(path), shapes, read, metadata)


def describe_quantization(names: Iterable[str]) -> str:
  """Returns a sentence if arrays are the scales of quantized weights, or ""."""
  found = next((name for name in names if _SCALE.search(name)), None)
  return f" '{found}' is a scale: {_QUANTIZED}" if found else ""


def _unknown_dtype(origin: str, name: str, dtype: str) -> ValueError:
  text = f"'{origin}' has '{name}' in {dtype}, which is not read"
  is_small = re.search(r"(f|float)[468]_", f"{dtype}_".lower())
  return ValueError(f"{text}: {_QUANTIZED}" if is_small else f"{text}.")


def open_torch_file(path: pathlib.Path) -> LazyStateDict:
  """Returns the state dict of a file of PyTorch's, whatever its suffix.

  Raises:
    ValueError: as in `open_state_dict`.
  """
  read = _MappedFile(
    lambda: torch_pickles.load(path),
    lambda file, name: torch_pickles.to_numpy(file[0][name]),
  )
  state, other = read.file
  metadata = {str(k): str(v)[:80] for k, v in other.items()}
  return LazyStateDict(
    str(path), from_torch(state, str(path)).shapes, read, metadata
  )


def _open_folder(folder: pathlib.Path) -> LazyStateDict:
  """Returns the state dict of the one file, or the one index, in a folder."""
  names = sorted(path.name for path in folder.iterdir() if path.is_file())
  for suffix in (".safetensors", ".bin"):
    indices = [n for n in names if n.endswith(f"{suffix}.index.json")]
    if len(indices) == 1:
      return _open_shards(folder, indices[0])
    files = [n for n in names if n.endswith(suffix)]
    plain = [n for n in files if n.count(".") == 1] or files
    if not indices and len(plain) == 1:
      return open_state_dict(folder / plain[0])
  files = [n for n in names if n.endswith(_SUFFIXES)]
  if len(files) == 1:
    return open_state_dict(folder / files[0])
  raise ValueError(
    f"'{folder}': expected one file of weights, or shards with one index, got"
    f" {names[:10]}. Pass the file, or a folder of one model."
  )


def _open_shards(folder: pathlib.Path, index: str) -> LazyStateDict:
  """Returns the shards of an index as one state dict."""
  weight_map = _read_index(folder / index)
  files = sorted(set(weight_map.values()))
  absent = [name for name in files if not (folder / name).is_file()]
  if absent:
    raise ValueError(f"'{folder}' lacks shards of {index}: {absent}.")
  shards = {name: open_state_dict(folder / name) for name in files}
  found = {n: file for file, shard in shards.items() for n in shard.shapes}
  if found != weight_map:
    wrong = {n for n, _ in found.items() ^ weight_map.items()}
    raise ValueError(
      f"'{folder}': {index} and its shards differ in {sorted(wrong)[:10]}."
    )
  return LazyStateDict(
    str(folder),
    {n: shards[found[n]].shapes[n] for n in found},
    lambda name: shards[found[name]].read(name),
    next(iter(shards.values())).metadata,
  )


def _read_index(path: pathlib.Path) -> dict[str, str]:
  """Returns name of an array -> file; ValueError if the file is no index."""
  try:
    weight_map = parse_object(read_text(path)).get("weight_map")
  except ValueError as error:
    raise ValueError(f"'{path}' is not an index of shards: {error}") from error
  is_map = isinstance(weight_map, dict) and weight_map
  if not is_map or not all(isinstance(x, str) for x in weight_map.values()):
    raise ValueError(
      f"'{path}' is not an index of shards: expected a weight_map from names of"
      " arrays to files."
    )
  return weight_map
