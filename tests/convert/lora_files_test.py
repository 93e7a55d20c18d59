"""LoRA files: exact both ways, as other programs load them, and merged."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from ccl_jax.checkpoints import manager, restore
from ccl_jax.convert import (
  export,
  lora_names,
  lora_reader,
  lora_writer,
  loras,
  torch_files,
  workdirs,
)
from ccl_jax.params import lora, trees
from ccl_jax.storage import text_files
from tests.convert import small_run
from tests.models import tiny
from tests.training import setups

pytestmark = pytest.mark.usefixtures("describe_once")
FULL = lora.Full
FILE = f"{lora_writer.STEM}.safetensors"
SETTINGS = {
  "rules": (
    ("(video|audio)/blocks/.*/kernel", 2), ("fusion/.*/kernel", 3),
    ("video/(time|text)/up/kernel", 2),
  ),
  "alpha": 5.0,
  "train_also": (
    "fusion/.*/context", "audio/blocks/.*/bias", "video/embed/kernel",
    "video/(blocks/modulation|head_modulation)",
    "video/blocks/self_attention/norm_q/.*",
  ),
}  # fmt: skip
MODEL = tiny.SETTINGS | {
  "video": tiny.SETTINGS["video"] | {"width": 24, "heads": 2}
}


def draw(settings, model, seed=1):
  """Random parameters that are trained, and others, by path each."""
  config = lora.LoRAConfig(**settings)
  shapes = small_run.described(model, lora=config)[1]
  rates = trees.flatten(trees.match(config.rates(((".*", 1.0),)), shapes))
  leaves = trees.flatten(tiny.randomize(shapes, seed))
  trained = {p: x for p, x in leaves.items() if rates[p] and settings["rules"]}
  return trained, {p: x for p, x in leaves.items() if p not in trained}


def write_run(workdir, settings, model):
  """A run of LoRA, never trained; returns the workdir."""
  config = setups.make_config(model=model, lora=settings)
  text_files.write_json(workdir / "config.json", config)
  trained, frozen = map(trees.unflatten, draw(settings, model))
  checkpoints = manager.CheckpointManager(workdir)
  checkpoints.save(3, {"trainable": trained, "frozen": frozen})
  checkpoints.close()
  return workdir


@pytest.fixture(scope="module")
def base(tmp_path_factory):
  """A run of other random values."""
  folder = tmp_path_factory.mktemp("base") / "base"
  text_files.write_json(folder / "config.json", setups.make_config(model=MODEL))
  leaves = trees.flatten(tiny.randomize(small_run.described(MODEL)[1], 2))
  workdirs.write(folder, 0, trees.unflatten(leaves), {})
  return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  return write_run(tmp_path_factory.mktemp("run") / "run", SETTINGS, MODEL)


def assert_equal(found, expected):
  assert found.keys() == expected.keys()
  for path, change in expected.items():
    assert type(found[path]) is type(change), path
    for x, wanted in zip(found[path], change, strict=True):
      np.testing.assert_array_equal(x, wanted, err_msg=path)


@pytest.mark.parametrize("style", lora_names.STYLES)
def test_there_and_back_is_exact(run, tmp_path, style):
  about = export.to_torch(
    run, tmp_path / "lora", component="lora", lora_style=style
  )
  expected = loras.read_run(run, MODEL)
  trained = draw(SETTINGS, MODEL)[0]
  assert about["parameters"] == sum(x.size for x in trained.values())
  full = sorted(p for p in trained if not lora.base_of(p))
  assert full == sorted(p for p in expected if isinstance(expected[p], FULL))
  assert_equal(lora_reader.read(tmp_path / "lora", MODEL), expected)
  assert_equal(loras.open_lora(f"{tmp_path}/lora/{FILE}", MODEL), expected)
  with safetensors.safe_open(tmp_path / "lora" / FILE, "np") as file:
    names, text = list(file.keys()), file.metadata()
  assert (text["rank"], text["alpha"], text["format"]) == ("2", "5.0", "pt")
  assert {
    "diffusers": "transformer.blocks.1.attn1.to_out.0.lora_A.weight",
    "comfyui": "diffusion_model.blocks.1.self_attn.o.lora_A.weight",
  }[style] in names
  assert "fusion.0.video.to_q.lora_B.weight" in names
  assert "lora_full.fusion.0.video.context" in names
  assert json.loads(text["train_also"]) == full
  card = (tmp_path / "lora" / "README.md").read_text()
  assert "`fusion/video/context`" in card and "W + s (P - W)" in card
  # diffusers' pipelines refuse files with other names; ComfyUI takes some.
  if style == "diffusers":
    assert all("lora" in name for name in names)
  else:
    assert "diffusion_model.blocks.1.modulation.set_weight" in names
    assert "diffusion_model.patch_embedding.set_weight" in names


def test_diffusers_loads_it_by_peft(run, tmp_path):
  """What PEFT fuses is the video stream of the run, in which we add it."""
  from diffusers import WanTransformer3DModel

  base = tmp_path / "base"  # all of the run but A and B
  text_files.write_json(base / "config.json", setups.make_config(model=MODEL))
  trained, frozen = draw(SETTINGS, MODEL)
  rest = {p: x for p, x in trained.items() if not lora.base_of(p)} | frozen
  workdirs.write(base, 0, trees.unflatten(rest), {})
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


def params_of(workdir):
  shapes = small_run.described(MODEL)[1]
  return trees.flatten(restore.read_params(workdir, shapes)[0])


def test_merged_equals_read_and_scales_add_up(run, base, tmp_path):
  """Twice a half of it is the run's own, also of what is trained in full."""
  export.to_torch(
    run, tmp_path / "lora", component="lora", lora_style="comfyui"
  )
  half = f"{tmp_path / 'lora'}:0.5"
  loras.merge(base, [half, half], tmp_path / "merged")
  loras.merge(base, [str(run)], tmp_path / "once")
  first, own = params_of(base), params_of(run)
  merged, once = params_of(tmp_path / "merged"), params_of(tmp_path / "once")
  changes = [loras.open_lora(half, MODEL)] * 2
  added = restore.fold_lora({p: x + 0 for p, x in first.items()}, *changes)
  trained = loras.read_run(run, MODEL)
  for path, w in first.items():
    change = trained.get(path)
    if isinstance(change, FULL):
      assert np.array_equal(once[path], own[path]), path
      expected = own[path]
    elif change:
      expected = w + change.scale * np.matmul(change.a, change.b)
    else:
      expected = w
      assert np.array_equal(once[path], w), path
    for found in (merged, once, added):
      np.testing.assert_allclose(
        found[path], expected, rtol=1e-5, atol=1e-5, err_msg=path
      )


@pytest.mark.parametrize("scale", [0.0, 0.8, -1.0])
def test_a_scale_is_of_the_difference(run, base, tmp_path, scale):
  loras.merge(base, [f"{run}:{scale}"], tmp_path / "merged")
  first, own = params_of(base), params_of(run)
  merged = params_of(tmp_path / "merged")
  for path in ("fusion/video/context", "video/blocks/modulation"):
    expected = first[path] + scale * (own[path] - first[path])
    np.testing.assert_allclose(merged[path], expected, rtol=1e-5, atol=1e-5)


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
  found = lora_reader.read(tmp_path / "kohya.safetensors", MODEL)
  ((kernel, (a, b, scale)),) = found.items()
  assert kernel == "video/blocks/text_attention/v/kernel"
  for layer, factor in ((0, 0.5), (1, 1.0)):
    name = f"lora_unet_blocks_{layer}_cross_attn_v"
    expected = factor * (
      arrays[f"{name}.lora_up.weight"] @ arrays[f"{name}.lora_down.weight"]
    )
    made = scale * (a[layer] @ b[layer])
    np.testing.assert_allclose(made.T, expected, rtol=1e-5, atol=1e-6)


def test_differences_of_others(tmp_path):
  """Of norms, biases and modulations of some layers, beside a LoRA."""
  rng = np.random.default_rng(0)
  arrays = {
    f"{ONE}.{name}": rng.normal(size=shape).astype(np.float32)
    for name, shape in (
      ("lora_down.weight", (2, 24)), ("lora_up.weight", (24, 2)),
      ("diff_b", 24),
    )
  }  # fmt: skip
  arrays |= {
    f"diffusion_model.{name}.diff": rng.normal(size=shape).astype(np.float32)
    for name, shape in (
      ("blocks.1.norm3", 24), ("blocks.1.modulation", (1, 6, 24)),
      ("head.head", (12, 24)),
    )
  }  # fmt: skip
  safetensors.numpy.save_file(arrays, tmp_path / "x.safetensors")
  found = lora_reader.read(tmp_path / "x.safetensors", MODEL)
  shapes = trees.flatten(small_run.described(MODEL)[1])
  base = {p: np.ones(shapes[p].shape, np.float32) for p in found}
  added = restore.fold_lora({p: jnp.asarray(x) for p, x in base.items()}, found)
  expected = {
    "video/blocks/text_norm/scale": (1, "blocks.1.norm3"),
    "video/blocks/modulation": (1, "blocks.1.modulation"),
  }
  for path, (row, name) in expected.items():
    diff = arrays[f"diffusion_model.{name}.diff"]
    assert np.all(added[path][1 - row] == 1), path
    np.testing.assert_allclose(added[path][row], 1 + diff.squeeze(), rtol=1e-6)
  np.testing.assert_allclose(
    added["video/head/kernel"], 1 + arrays["diffusion_model.head.head.diff"].T
  )
  assert "video/blocks/self_attention/q/bias" in found


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
    ((2, 24), (24, 1), {}, "another model"),
    ((2, 1), (24, 2), {}, "another model"),
    ((2, 20), (24, 2), {}, "another model"),
    ((2, 24), (26, 2), {}, "another model"),
    ((2, 24), (24, 2), {f"{ONE}.alpha": float("nan")}, "finite"),
    ((2, 24, 1, 1), (24, 2), {}, "linear layer"),
    ((2, 24), (24, 2, 1), {}, "another model"),
    ((2, 24), (24, 2), {f"{ONE}.alpha": (2,)}, "several alphas"),
    ((2, 24), (24, 2), {"blocks.0.norm3.diff": (23,)}, "another model"),
    ((2, 24), (24, 2), {"blocks.0.modulation.diff": (6,)}, "another model"),
    ((2, 24), (24, 2), {"blocks.0.norm3.set_weight": (24,)}, "expected all 2"),
    ((2, 24), (24, 2), {f"{ONE}.diff": (24, 24)}, "expected one"),
    ((2, 24), (24, 2), {"lora_full.fusion.9.video.context": (2,)}, "no LoRA"),
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
    lora_reader.read(tmp_path / "x.safetensors", MODEL)


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
  silent = MODEL | {"audio": None, "fusion": {"kind": "independent"}}
  with pytest.raises(ValueError, match="expected a run of configs/lora"):
    loras.open_lora(str(run), silent)
  patch = write_run(
    tmp_path / "patch", {"rules": (("video/embed/kernel", 2),)}, MODEL
  )
  with pytest.raises(ValueError, match="video/embed/kernel cannot be"):
    export.to_torch(patch, tmp_path / "out", component="lora")
  assert not (tmp_path / "out").exists()
