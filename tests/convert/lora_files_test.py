"""LoRA files: exact both ways, as other programs load them, and merged."""

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from ccl_jax import files, lora, trees
from ccl_jax.checkpoints import manager, restore
from ccl_jax.convert import export, lora_files, loras, torch_files, workdirs
from tests.convert import small_run
from tests.models import tiny
from tests.training import setups

pytestmark = pytest.mark.usefixtures("describe_once")
FILE = f"{lora_files.STEM}.safetensors"
SETTINGS = {
  "rules": (
    ("(video|audio)/blocks/.*/kernel", 2), ("fusion/.*/kernel", 3),
    ("video/(time|text)/up/kernel", 2),
  ),
  "alpha": 5.0,
}  # fmt: skip
MODEL = tiny.SETTINGS | {
  "video": tiny.SETTINGS["video"] | {"width": 24, "heads": 2}
}


def draw(settings, model, seed=1):
  """Random A and B, and a random base, by path each."""
  shapes = small_run.described(model, lora=lora.LoRAConfig(**settings))[1]
  leaves = trees.flatten(tiny.randomize(shapes, seed))
  factors = {p: x for p, x in leaves.items() if lora.base_of(p)}
  return factors, {p: x for p, x in leaves.items() if p not in factors}


def write_run(workdir, settings, model):
  """A run of LoRA, never trained; returns the workdir."""
  config = setups.make_config(model=model, lora=settings)
  files.write_json(workdir / "config.json", config)
  factors, base = map(trees.unflatten, draw(settings, model))
  checkpoints = manager.CheckpointManager(workdir)
  checkpoints.save(3, {"trainable": factors, "frozen": base}, force=True)
  checkpoints.close()
  return workdir


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  return write_run(tmp_path_factory.mktemp("run") / "run", SETTINGS, MODEL)


def assert_equal(found, expected):
  assert found.keys() == expected.keys()
  for kernel, (a, b, scale) in expected.items():
    np.testing.assert_array_equal(found[kernel].a, a, err_msg=kernel)
    np.testing.assert_array_equal(found[kernel].b, b, err_msg=kernel)
    assert found[kernel].scale == scale, kernel


@pytest.mark.parametrize("style", lora_files.STYLES)
def test_there_and_back_is_exact(run, tmp_path, style):
  about = export.to_torch(
    run, tmp_path / "lora", component="lora", lora_style=style
  )
  expected = loras.read_run(run, MODEL)
  assert about["parameters"] == sum(
    x.a.size + x.b.size for x in expected.values()
  )
  assert_equal(lora_files.read(tmp_path / "lora", MODEL), expected)
  assert_equal(loras.open_lora(f"{tmp_path}/lora/{FILE}", MODEL), expected)
  with safetensors.safe_open(tmp_path / "lora" / FILE, "np") as file:
    names, text = list(file.keys()), file.metadata()
  assert (text["rank"], text["alpha"], text["format"]) == ("2", "5.0", "pt")
  assert {
    "diffusers": "transformer.blocks.1.attn1.to_out.0.lora_A.weight",
    "comfyui": "diffusion_model.blocks.1.self_attn.o.lora_A.weight",
  }[style] in names
  assert "fusion.0.video.to_q.lora_B.weight" in names


def test_diffusers_loads_it_by_peft(run, tmp_path):
  """What PEFT fuses is the video stream of the run, in which we add it."""
  from diffusers import WanTransformer3DModel

  base = tmp_path / "base"
  files.write_json(base / "config.json", setups.make_config(model=MODEL))
  workdirs.write(base, 0, trees.unflatten(draw(SETTINGS, MODEL)[1]), {})
  for source, name in ((base, "plain"), (run, "merged")):
    export.to_torch(source, tmp_path / name, component="video")
  export.to_torch(run, tmp_path / "lora", component="lora")
  plain, merged = (
    WanTransformer3DModel.from_pretrained(tmp_path / name / "transformer")
    for name in ("plain", "merged")
  )
  plain.load_lora_adapter(str(tmp_path / "lora"), weight_name=FILE)
  plain.fuse_lora()
  plain.unload_lora()
  found, changed = plain.state_dict(), 0
  for name, x in merged.state_dict().items():
    np.testing.assert_allclose(
      found[name], x, rtol=1e-5, atol=1e-5, err_msg=name
    )
    changed += name.endswith("to_q.weight")
  assert changed == 2 * MODEL["num_layers"]


def test_merged_equals_read_and_scales_add_up(run, tmp_path):
  """A run holds its own LoRA; twice a half more of it is one more."""
  export.to_torch(
    run, tmp_path / "lora", component="lora", lora_style="comfyui"
  )
  half = f"{tmp_path / 'lora'}:0.5"
  loras.merge(run, [half, half], tmp_path / "merged")
  shapes = small_run.described(MODEL)[1]
  once = trees.flatten(restore.read_params(run, shapes)[0])
  found = trees.flatten(restore.read_params(tmp_path / "merged", shapes)[0])
  for path, (a, b, scale) in loras.read_run(run, MODEL).items():
    expected = np.asarray(once[path]) + scale * np.matmul(a, b)
    np.testing.assert_allclose(found[path], expected, rtol=1e-5, atol=1e-5)
  assert np.array_equal(found["video/embed/kernel"], once["video/embed/kernel"])


def test_files_of_others(run, tmp_path):
  """kohya's names, lora_down and lora_up, alpha beside, another rank each."""
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
  arrays = {}
  for layer, rank, alpha in ((0, 2, 1.0), (1, 4, 4.0)):
    name = f"lora_unet_blocks_{layer}_cross_attn_v"
    arrays |= {
      f"{name}.lora_down.weight": normal(rank, 24),
      f"{name}.lora_up.weight": normal(24, rank),
      f"{name}.alpha": np.asarray(alpha, np.float32),
    }
  safetensors.numpy.save_file(arrays, tmp_path / "kohya.safetensors")
  found = lora_files.read(tmp_path / "kohya.safetensors", MODEL)
  ((kernel, (a, b, scale)),) = found.items()
  assert kernel == "video/blocks/text_attention/v/kernel"
  for layer, factor in ((0, 0.5), (1, 1.0)):
    name = f"lora_unet_blocks_{layer}_cross_attn_v"
    expected = factor * (
      arrays[f"{name}.lora_up.weight"] @ arrays[f"{name}.lora_down.weight"]
    )
    made = scale * (a[layer] @ b[layer])
    np.testing.assert_allclose(made.T, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prefix", torch_files.PREFIXES)
def test_prefixes_of_every_name_are_left_out_and_told(tmp_path, prefix, capsys):
  arrays = {"a.weight": np.ones(2, np.float32), "b": np.zeros(3, np.float32)}
  path = tmp_path / "x.safetensors"
  named = {f"{prefix}{name}": x for name, x in arrays.items()}
  safetensors.numpy.save_file(named, path)
  found = torch_files.without_prefixes(torch_files.open_state_dict(path))
  assert found.shapes.keys() == arrays.keys()
  assert np.array_equal(found.read("a.weight"), arrays["a.weight"])
  assert f"'{prefix}'" in capsys.readouterr().out
  safetensors.numpy.save_file(named | {"c": np.ones(1, np.float32)}, path)
  found = torch_files.without_prefixes(torch_files.open_state_dict(path))
  assert f"{prefix}b" in found.shapes and not capsys.readouterr().out


ONE = "diffusion_model.blocks.0.self_attn.q"


@pytest.mark.parametrize(
  ("a", "b", "extra", "words"),
  [
    ((2, 24), (24, 2), {"blocks.9.x.lora_A.weight": (2, 2)}, "is no LoRA of"),
    ((2, 24), (24, 2), {"blocks.0.ffn.0.weight": (2, 2)}, "is no LoRA of"),
    ((2, 24), None, {}, "a part of a LoRA"),
    ((2, 24), (24, 3), {}, "another model"),
    ((2, 20), (24, 2), {}, "another model"),
    ((2, 24), (26, 2), {}, "another model"),
    ((2, 24), (24, 2), {f"{ONE}.alpha": float("nan")}, "finite"),
  ],
)
def test_a_file_of_another_model_is_refused(tmp_path, a, b, extra, words):
  shapes = {f"{ONE}.lora_A.weight": a, f"{ONE}.lora_B.weight": b} | extra
  arrays = {
    name: np.ones(x, np.float32)
    if isinstance(x, tuple)
    else np.asarray(x, np.float32)
    for name, x in shapes.items()
    if x is not None
  }
  safetensors.numpy.save_file(arrays, tmp_path / "x.safetensors")
  with pytest.raises(ValueError, match=words):
    lora_files.read(tmp_path / "x.safetensors", MODEL)


def test_what_is_no_lora_is_refused(run, tmp_path):
  for text, words in (
    (f"{run}:nan", "finite number"), (f"{run}:inf", "finite number"),
    ("nowhere:0.8", "no 'nowhere'"), ("nowhere", "expected PATH:SCALE"),
  ):  # fmt: skip
    with pytest.raises(ValueError, match=words):
      loras.open_lora(text, MODEL)
  wider = MODEL | {"audio": MODEL["audio"] | {"ffn": 20}}
  with pytest.raises(ValueError, match="another model: it is for a 'audio/b"):
    loras.open_lora(str(run), wider)
  plain = write_run(tmp_path / "plain", {"rules": ()}, MODEL)
  with pytest.raises(ValueError, match="LoRA for 0 matrices"):
    loras.open_lora(str(plain), MODEL)
  patch = write_run(
    tmp_path / "patch", {"rules": (("video/embed/kernel", 2),)}, MODEL
  )
  with pytest.raises(ValueError, match="video/embed/kernel cannot be"):
    export.to_torch(patch, tmp_path / "out", component="lora")
  assert not (tmp_path / "out").exists()
