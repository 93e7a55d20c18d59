"""Files of every kind hold the same arrays; errors say what is wrong."""

import argparse
import json
import os

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors
from safetensors.numpy import save_file

from ccl_jax.convert import torch_files
from tests.convert.loading import from_dict

torch = pytest.importorskip("torch")
rng = np.random.default_rng(0)
ARRAYS = {
  "a.weight": rng.standard_normal((3, 4)).astype(np.float32),
  "a.half": rng.standard_normal((2, 3)).astype(ml_dtypes.bfloat16),
  "b.half": rng.standard_normal(5).astype(np.float16),
  "scalar": np.array(3.5, np.float32),
  "ids": np.arange(4),
  "on": np.array([True, False]),
}


def as_torch(x):
  if x.dtype == ml_dtypes.bfloat16:
    return torch.from_numpy(x.view(np.int16).copy()).view(torch.bfloat16)
  return torch.from_numpy(x.copy())


STATE = {name: as_torch(x) for name, x in ARRAYS.items()}


def check(tensors, names=tuple(ARRAYS)):
  assert set(tensors.shapes) == set(names)
  for name in names:
    array = tensors.read(name)
    assert array.dtype == ARRAYS[name].dtype == tensors.shapes[name].dtype
    assert tensors.shapes[name].shape == array.shape
    np.testing.assert_array_equal(array, ARRAYS[name])


def count_calls(monkeypatch, module, name):
  """Returns a list that has an item for each call of a function."""
  calls, function = [], getattr(module, name)

  def counted(*args, **options):
    calls.append(name)
    return function(*args, **options)

  monkeypatch.setattr(module, name, counted)
  return calls


def refusal(path, *parts):
  with pytest.raises(ValueError) as found:
    torch_files.open_state_dict(path)
  text = str(found.value)
  assert len(text.splitlines()) == 1 and len(text) < 500, text
  assert all(part in text for part in (str(path.name), *parts)), text


def test_dicts():
  check(from_dict(ARRAYS))
  check(torch_files.from_torch(STATE))


def test_meta_modules_have_shapes():
  with torch.device("meta"):
    module = torch.nn.Linear(3, 2, dtype=torch.bfloat16)
  shapes = torch_files.from_torch(module.state_dict()).shapes
  assert shapes["weight"].shape == (2, 3)
  assert shapes["weight"].dtype == jnp.bfloat16


def test_safetensors(tmp_path):
  save_file(ARRAYS, tmp_path / "x.safetensors", metadata={"format": "pt"})
  tensors = torch_files.open_state_dict(tmp_path / "x.safetensors")
  check(tensors)
  assert tensors.metadata == {"format": "pt"}
  check(torch_files.open_state_dict(tmp_path))


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files(tmp_path, suffix, zipped):
  path = tmp_path / f"x{suffix}"
  torch.save(STATE, path, _use_new_zipfile_serialization=zipped)
  check(torch_files.open_state_dict(path))
  check(torch_files.open_state_dict(tmp_path))


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_files_are_mapped_again(tmp_path, monkeypatch, kind):
  """Arrays that were read keep their values when their mapping is closed."""
  monkeypatch.setattr(torch_files, "MAX_MAPPED_BYTES", 0)
  if kind == "safetensors":
    save_file(ARRAYS, tmp_path / "x.safetensors")
    opened = count_calls(monkeypatch, safetensors, "safe_open")
  else:
    torch.save(STATE, tmp_path / "x.pth")
    opened = count_calls(monkeypatch, torch, "load")
  tensors = torch_files.open_state_dict(tmp_path)
  assert len(opened) == 1
  read = {name: tensors.read(name) for name in ARRAYS}
  assert len(opened) == len(ARRAYS)
  for name, array in read.items():
    np.testing.assert_array_equal(array, ARRAYS[name])


@pytest.mark.parametrize("key", ["state_dict", "model", "generator"])
def test_nested_torch_files(tmp_path, key):
  torch.save({key: STATE, "epoch": 3}, tmp_path / "x.pth")
  tensors = torch_files.open_state_dict(tmp_path / "x.pth")
  check(tensors)
  assert tensors.metadata["epoch"] == "3"


def shard(folder, suffix=".safetensors", stem="diffusion_pytorch_model"):
  """Two shards and their index."""
  names = list(ARRAYS)
  files = {f"{stem}-{i}-of-2{suffix}": names[i::2] for i in range(2)}
  for file, held in files.items():
    if suffix == ".bin":
      torch.save({n: STATE[n] for n in held}, folder / file)
    else:
      save_file({n: ARRAYS[n] for n in held}, folder / file)
  index = {name: file for file, held in files.items() for name in held}
  path = folder / f"{stem}{suffix}.index.json"
  path.write_text(json.dumps({"metadata": {}, "weight_map": index}))
  return path, index


@pytest.mark.parametrize(
  "suffix, stem",
  [(".safetensors", "diffusion_pytorch_model"), (".bin", "pytorch_model")],
)
def test_shards(tmp_path, suffix, stem):
  shard(tmp_path, suffix, stem)
  check(torch_files.open_state_dict(tmp_path))


def test_an_index_that_does_not_fit(tmp_path):
  path, index = shard(tmp_path)
  renamed = {("A" if k == "a.weight" else k): v for k, v in index.items()}
  path.write_text(json.dumps({"weight_map": renamed}))
  refusal(tmp_path, "differ", "'A'", "'a.weight'")
  gone = index["a.weight"]
  (tmp_path / gone).unlink()
  refusal(tmp_path, "lacks shards", gone)
  path.write_text("{")
  with pytest.raises(ValueError, match="is not an index"):
    torch_files.open_state_dict(tmp_path)


MAPS = '["a"]', "{}", "null", '"a"', '{"a": 1}', '{"a": ["b"]}', '{"a": null}'


@pytest.mark.parametrize(
  "text", ["[]", "3", "{}", *(f'{{"weight_map": {x}}}' for x in MAPS)]
)
def test_what_is_no_index_is_one_error(tmp_path, text):
  path, _ = shard(tmp_path)
  path.write_text(text)
  with pytest.raises(ValueError, match="is not an index of shards: ") as error:
    torch_files.open_state_dict(tmp_path)
  assert "\n" not in str(error.value)
  path.write_text('{"weight_map": {"a": "."}}')  # the folder itself
  refusal(tmp_path, "lacks shards")


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("layout", ["sparse_coo", "sparse_csr"])
def test_sparse_tensors_are_refused_by_name(tmp_path, layout):
  x = torch.eye(3).to_sparse(layout=getattr(torch, layout))
  torch.save({"dense": torch.eye(2), "thin": x}, tmp_path / "x.bin")
  refusal(tmp_path / "x.bin", "'thin'", f"torch.{layout}", "to_dense()")


class Evil:
  def __init__(self, folder):
    self.folder = folder

  def __reduce__(self):
    return os.mkdir, (self.folder,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, zipped):
  evil = {"a": torch.ones(2), "b": Evil(str(tmp_path / "ran"))}
  path = tmp_path / "x.pth"
  torch.save(evil, path, _use_new_zipfile_serialization=zipped)
  refusal(path, "mkdir", "refused")
  assert not (tmp_path / "ran").exists()


def test_objects_are_code_too(tmp_path):
  torch.save(
    {"a": torch.ones(2), "args": argparse.Namespace()}, tmp_path / "x.pt"
  )
  refusal(tmp_path / "x.pt", "argparse.Namespace", "refused")
  torch.save(torch.nn.Linear(2, 2), tmp_path / "y.pt")
  refusal(tmp_path / "y.pt", "Linear", "refused")


@pytest.mark.parametrize("kind", ["safetensors", "pth", "old.pth"])
@pytest.mark.parametrize("kept", [0, 7, 0.5, 0.98])
def test_cut_files(tmp_path, kind, kept):
  path = tmp_path / f"x.{kind}"
  if kind == "safetensors":
    save_file(ARRAYS, path)
  else:
    torch.save(STATE, path, _use_new_zipfile_serialization=kind == "pth")
  content = path.read_bytes()
  size = kept if isinstance(kept, int) else int(kept * len(content))
  path.write_bytes(content[:size])
  refusal(path, "cut short")


@pytest.mark.parametrize(
  ("dtype", "size", "is_quantized"),
  [("F8_E8M0", 1, True), ("F4", 0.5, True), ("F6_E2M3", 0.75, True),
   ("F8_E4M3FNUZ", 1, True), ("C64", 8, False)],
)  # fmt: skip
def test_whole_files_of_dtypes_that_are_not_read(
  tmp_path, dtype, size, is_quantized
):
  """mxfp8 and nvfp4: whole, so that they are not called cut short."""
  end = int(8 * size)
  header = json.dumps(
    {"a.weight_scale": {
      "dtype": dtype, "shape": [8], "data_offsets": [0, end]
    }}
  ).encode()  # fmt: skip
  path = tmp_path / "x.safetensors"
  path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(end))
  refusal(path, "'a.weight_scale'", dtype)
  with pytest.raises(ValueError, match="not read") as error:
    torch_files.open_state_dict(path)
  assert "cut short" not in str(error.value)
  assert ("quantized" in str(error.value)) == is_quantized


def test_torch_files_of_packed_floats_are_refused_by_name(tmp_path):
  packed = torch.zeros(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
  torch.save({"a.weight": packed}, tmp_path / "x.pth")
  refusal(tmp_path / "x.pth", "'a.weight'", "float4", "quantized")


def test_scales_beside_weights_are_told():
  """Of files whose dtypes are all known: uint8 pairs, or scaled float8."""
  for name in (
    "a.weight_scale", "a.weight_scale_2", "a.weight_scale_inv",
    "a.input_scale", "a.scale_weight", "a.comfy_quant",
  ):  # fmt: skip
    text = torch_files.describe_quantization(["a.weight", name])
    assert name in text and "quantized" in text
  names = ["a.weight", "a.scale", "norm.weight", "a.scale_shift_table"]
  assert torch_files.describe_quantization(names) == ""


def test_files_that_are_something_else(tmp_path):
  refusal(tmp_path / "nothing.pth", "No file")
  for name in ("x.safetensors", "x.pth"):
    (tmp_path / name).write_text("<html>404</html>" * 100)
    refusal(tmp_path / name, "cut short")
  (tmp_path / "x.gguf").write_text("")
  refusal(tmp_path / "x.gguf", "expected a .safetensors")
  torch.save([torch.ones(2)], tmp_path / "y.pth")
  refusal(tmp_path / "y.pth", "holds a list")
  torch.save({"epoch": 3}, tmp_path / "z.pth")
  refusal(tmp_path / "z.pth", "no arrays", "epoch")
  (tmp_path / "x.safetensors").unlink()
  refusal(tmp_path, "expected one file of weights")
