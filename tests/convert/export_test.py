"""The folder that `to-torch` writes, its readers, and the way back."""

import dataclasses
import itertools
import json
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ccl_jax.array_types import STREAMS, Route
from ccl_jax.checkpoints import restore, run_config
from ccl_jax.config import RENAMED
from ccl_jax.convert import export, model_card, transformer, wan, workdirs
from ccl_jax.convert.state_dict import iter_state_dict
from ccl_jax.convert.torch_files import open_state_dict
from ccl_jax.generation.pipeline import Pipeline
from ccl_jax.models import functional
from ccl_jax.params import trees
from ccl_jax.storage import files, text_files
from tests import bucket, gcs
from tests.convert import small_run
from tests.models import tiny

pytestmark = pytest.mark.usefixtures("describe_once")

ALONE = dict(audio=None, fusion=dict(kind="independent"))
IMAGE = dict(condition_channels=5, image_width=7)
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  return small_run.write(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
  folder = tmp_path_factory.mktemp("export") / "x"
  export.to_torch(run, folder)
  return folder


def arrays_of(folder):
  tensors = open_state_dict(folder / "transformer")
  return {name: tensors.read(name) for name in tensors.shapes}


def params_of(workdir, **options):
  found = workdirs.open_workdir(workdir).params(**options).arrays
  return {path: np.asarray(x) for path, x in found.items()}


def assert_equal(found, expected, dtype=None):
  assert found.keys() == expected.keys()
  for name, x in expected.items():
    x = x if dtype is None else x.astype(dtype)
    assert found[name].dtype == x.dtype, name
    np.testing.assert_array_equal(found[name], x, err_msg=name)


def contents(folder):
  return {
    str(p.relative_to(folder)): p.read_bytes()
    for p in folder.rglob("*")
    if p.is_file()
  }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_there_and_back_and_there(run, tmp_path, dtype):
  """Bit for bit."""
  first, back, again = (tmp_path / name for name in ("x", "back", "again"))
  about = export.to_torch(run, first, dtype=dtype)
  assert about["is_ema"] and about["step"] == 5
  made = transformer.from_export(first, back)
  assert made["parameters"] == about["parameters"]
  expected = trees.flatten(small_run.params(5))
  assert_equal(params_of(back), expected, export.DTYPES[dtype])
  export.to_torch(back, again, dtype=dtype)
  files_of = [contents(x / "transformer") for x in (first, again)]
  assert files_of[0] == files_of[1]
  if dtype == "float32":
    loaded = Pipeline.load(back)
    assert loaded.step == 5 and loaded.shape.size == (16, 24)
    assert_equal(trees.flatten(loaded.params), expected, np.float32)


def test_a_single_file_has_wan_s_names_and_comes_back(run, tmp_path, capsys):
  """Bit for bit, also under a prefix."""
  about = export.to_torch(run, tmp_path / "x", layout="single")
  file = tmp_path / "x" / "ccl.safetensors"
  assert {p.name for p in (tmp_path / "x").iterdir()} == {
    file.name, "run", "README.md",
  }  # fmt: skip
  state = open_state_dict(file)
  video = {n for n in state.shapes if not n.startswith(("audio.", "fusion."))}
  told, expected = wan.tables(tiny.SETTINGS)["wan"], small_run.params(5)
  alone = dict(iter_state_dict({"video": expected["video"]}, told))
  assert video == alone.keys()
  assert {"patch_embedding.weight", "blocks.1.self_attn.q.weight"} <= video
  assert "audio.blocks.0.attn1.to_q.weight" in state.shapes
  assert "fusion.1.audio.to_q.weight" in state.shapes
  for name, x in alone.items():
    np.testing.assert_array_equal(state.read(name), x, err_msg=name)
  renamed = tmp_path / "renamed.safetensors"
  save_file(
    {f"model.diffusion_model.{n}": state.read(n) for n in state.shapes},
    renamed, {"config": state.metadata["config"]},
  )  # fmt: skip
  for name, source in (("back", file), ("again", renamed)):
    made = transformer.from_export(source, tmp_path / name)
    assert made["parameters"] == about["parameters"]
    found = params_of(tmp_path / name)
    assert_equal(found, trees.flatten(expected), np.float32)
  assert (tmp_path / "back" / "codecs").exists()
  assert "'model.diffusion_model.'" in capsys.readouterr().out


def test_a_single_file_of_the_video_stream_is_wan_s(run, tmp_path):
  export.to_torch(run, tmp_path / "x", component="video", layout="single")
  file = tmp_path / "x" / "ccl.safetensors"
  sizes = {"tiny": {**tiny.SETTINGS, **ALONE}}
  transformer.from_torch(file, tmp_path / "back", sizes=sizes)
  expected = trees.flatten({"video": small_run.params(5)["video"]})
  assert_equal(params_of(tmp_path / "back"), expected)
  card = (tmp_path / "x" / "README.md").read_text()
  assert "without its cross-modal" in card
  with pytest.raises(ValueError, match="--model=wan"):
    transformer.from_export(file, tmp_path / "out")
  save_file({"x": np.ones(2)}, tmp_path / "y.safetensors")
  with pytest.raises(ValueError, match="no config in its header"):
    transformer.from_export(tmp_path / "y.safetensors", tmp_path / "out")
  with pytest.raises(ValueError, match="leave out --layout"):
    export.to_torch(run, tmp_path / "out", component="lora", layout="single")
  assert not (tmp_path / "out").exists()


def write_old_names(folder):
  """Gives config.json of an export the names of keys of earlier versions."""
  old = {new.rpartition(".")[2]: key for key, new in RENAMED.items()}
  path = folder / "transformer" / "config.json"
  config = json.loads(path.read_text())
  for section in ("fusion", "sampling"):
    config[section] = {
      old.get(key, key).rpartition(".")[2]: value
      for key, value in config[section].items()
    }
  path.write_text(json.dumps(config))
  return config


def test_an_export_of_an_earlier_version(run, exported, tmp_path):
  """Keys of its config.json have other names, and the run's may too."""
  folder = shutil.copytree(exported, tmp_path / "x")
  config = write_old_names(folder)
  assert config["fusion"] == {
    "kind": "cca", "audio_context": 2, "video_context": 3
  }  # fmt: skip
  assert config["sampling"].keys() >= {"method", "steps", "rescale"}
  transformer.from_export(folder, tmp_path / "back")
  assert workdirs.open_workdir(tmp_path / "back").model == tiny.SETTINGS
  assert_equal(
    params_of(tmp_path / "back"), trees.flatten(small_run.params(5)), np.float32
  )
  (tmp_path / "back" / "config.json").unlink()  # then about.json has the model
  assert workdirs.open_workdir(tmp_path / "back").model == tiny.SETTINGS
  read = export.read_config(folder)
  assert read == export.read_config(exported)


def test_the_gated_baseline(tmp_path):
  """Whose context is empty."""
  settings = {**tiny.SETTINGS, "fusion": {"kind": "gated"}}
  params = trees.flatten(small_run.draw(1, settings))
  (tmp_path / "run").mkdir()
  made = trees.unflatten(params)
  workdirs.write(tmp_path / "run", 3, made, {"settings": settings})
  export.to_torch(tmp_path / "run", tmp_path / "x")
  transformer.from_export(tmp_path / "x", tmp_path / "back")
  assert_equal(params_of(tmp_path / "back"), params, np.float32)
  assert not params["fusion/video/context"].size


def test_which_parameters(run, tmp_path):
  """A step by its number or its folder, with and without the average."""
  by_number = export.to_torch(run, tmp_path / "a", step=2, ema=False)
  folder = run / "checkpoints" / "2"
  by_folder = export.to_torch(folder, tmp_path / "b", ema=False)
  assert by_number == by_folder and not by_number["is_ema"]
  table = export.ccl.table(tiny.SETTINGS)
  expected = dict(iter_state_dict(small_run.params(2, average=False), table))
  for name in "ab":
    assert_equal(arrays_of(tmp_path / name), expected, np.float32)
  with pytest.raises(ValueError, match="not of step 1"):
    export.to_torch(folder, tmp_path / "c", step=1)
  with pytest.raises(ValueError, match=r"No checkpoint of step 3.*\[1, 2, 5\]"):
    export.to_torch(run, tmp_path / "c", step=3)


def test_shards(run, exported, tmp_path):
  export.to_torch(run, tmp_path / "x", shard_size=10_000)
  folder = tmp_path / "x" / "transformer"
  shards = sorted(folder.glob("*.safetensors"))
  num = len(shards)
  assert num > 3
  assert shards[1].name == (
    f"diffusion_pytorch_model-00002-of-{num:05}.safetensors"
  )
  for shard in shards:
    held = load_file(shard)
    assert len(held) == 1 or sum(x.nbytes for x in held.values()) <= 10_000
  index = json.loads((folder / f"{WEIGHTS}.index.json").read_text())
  whole = arrays_of(exported)
  assert index["metadata"]["total_size"] == sum(
    x.nbytes for x in whole.values()
  )
  assert_equal(arrays_of(tmp_path / "x"), whole)
  assert [p.name for p in (exported / "transformer").iterdir()] != []
  assert not list((exported / "transformer").glob("*index*"))


def write_video(folder, image):
  """A run of a video stream alone, as a converter writes one."""
  settings = {**tiny.SETTINGS, **ALONE}
  settings["video"] = settings["video"] | image
  params = small_run.draw(3, settings)
  folder.mkdir()
  workdirs.write(folder, 7, params, {"settings": settings})
  return settings, params


def wan_of(folder):
  """diffusers' model; its own from_pretrained needs accelerate."""
  import torch
  from diffusers import WanTransformer3DModel

  config = WanTransformer3DModel.load_config(folder / "transformer")
  module = WanTransformer3DModel.from_config(config)
  state = {name: torch.tensor(x) for name, x in arrays_of(folder).items()}
  module.load_state_dict(state, strict=True)
  return module


@pytest.mark.parametrize("image", [{}, IMAGE], ids=["t2v", "i2v"])
def test_diffusers_loads_the_video_stream(tmp_path, image):
  """Strictly, whatever it was exported of; and as Wan's it comes back."""
  pytest.importorskip("torch")
  from diffusers import UniPCMultistepScheduler

  settings, params = write_video(tmp_path / "run", image)
  export.to_torch(tmp_path / "run", tmp_path / "x", component="video")
  assert wan_of(tmp_path / "x").config.image_dim == image.get("image_width")
  scheduler = UniPCMultistepScheduler.from_pretrained(
    tmp_path / "x" / "scheduler"
  )
  assert scheduler.config.use_flow_sigmas and scheduler.config.flow_shift == 5
  transformer.from_torch(
    tmp_path / "x", tmp_path / "back", sizes={"tiny": settings}
  )
  assert_equal(params_of(tmp_path / "back"), trees.flatten(params))


def test_the_video_stream_gives_the_same_velocity(run, tmp_path):
  """diffusers' model of a joint run, and our video stream of it."""
  torch = pytest.importorskip("torch")
  export.to_torch(run, tmp_path / "x", component="video", shard_size=20_000)
  assert not (tmp_path / "x" / "run").exists()
  module = wan_of(tmp_path / "x")
  state, _, text, _ = tiny.inputs(b=2)
  video, t = np.asarray(state["video"]), np.array([0.9, 0.3], np.float32)
  with torch.no_grad():
    theirs = module(
      torch.from_numpy(np.moveaxis(video, -1, 1).copy()),
      torch.from_numpy(1000 * t),
      torch.from_numpy(np.array(text)),
    ).sample.numpy()
  settings = {**tiny.SETTINGS, **ALONE}
  graph, _ = functional.describe(settings)
  ones = jnp.ones(2, bool)
  route = Route(
    dict.fromkeys(STREAMS, ~ones), dict.fromkeys(STREAMS, ones), ~ones
  )
  velocity = jax.jit(functional.velocity, static_argnums=0)
  params = {"video": small_run.params(5)["video"]}
  ours = velocity(graph, params, {"video": video}, {"video": t}, text, route)
  ours = ours["video"]
  theirs = np.moveaxis(theirs, 1, -1)
  assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()


def test_what_the_folder_says(exported):
  config = json.loads((exported / "transformer" / "config.json").read_text())
  assert config["_class_name"] == "CCL" and config["ccl_version"] == 1
  assert config["clip"] == {"fps": 25.0, "frames": 9, "size": [16, 24]}
  assert config["sampling"]["guidance"] == "ucg2"
  given = {k: v for k, v in config.items() if k not in export.ADDED_KEYS}
  assert given == tiny.SETTINGS
  card = (exported / "README.md").read_text()
  for part in (
    "# CCL, step 5", "for video and audio", "a moving average",
    "9 frames of 24 x 16 pixels at 25", '"Hello!"', "from_pretrained",
    '"guidance": "ucg2"', "none are known",
  ):  # fmt: skip
    assert part in card, part
  scheduler = exported / "scheduler" / "scheduler_config.json"
  assert json.loads(scheduler.read_text())["flow_shift"] == 1.0  # the run's


@pytest.mark.parametrize(
  ("fusion", "is_exact"),
  [
    ({"kind": "cca", "num_audio_lct": 2, "num_video_lct": 3}, False),
    ({}, False),
    ({"kind": "cca", "dcr": False}, True),
    ({"kind": "cca", "num_audio_lct": 0, "num_video_lct": 3}, True),
    ({"kind": "gated"}, True),
    ({"kind": "independent"}, True),
  ],
)
def test_the_card_of_the_video_stream_says_what_is_exact(
  run, tmp_path, fusion, is_exact
):
  """Without context tokens it is not the model's own t2v."""
  copy = shutil.copytree(run, tmp_path / "run")
  config = run_config.read(copy)
  found = workdirs.open_workdir(copy)
  found = dataclasses.replace(
    found, config=config | {"model": config["model"] | {"fusion": fusion}}
  )
  about = {
    "class": "WanTransformer3DModel", "step": 5, "parameters": 9,
    "dtype": "float32", "is_ema": True, "layout": "folder",
  }  # fmt: skip
  card = model_card.text(found, about)
  assert ("not the model's own text-to-video" in card) != is_exact
  assert "30 to 40 %" in card or is_exact
  assert "diffusers accelerate" in card and "no `model_index.json`" in card
  assert "{exact}" not in card and "scheduler" in card


def test_licences_of_what_it_was_made_with(run, tmp_path):
  _, _ = write_video(tmp_path / "wan", {})
  about = json.loads((tmp_path / "wan" / "about.json").read_text())
  about |= {"model": "wan", "licence": "Apache-2.0"}
  (tmp_path / "wan" / "about.json").write_text(json.dumps(about))
  run = shutil.copytree(run, tmp_path / "run")
  sources = [["video/.*", str(tmp_path / "wan")]]
  config = run_config.read(run) | {"init": {"from_runs": sources}}
  text_files.write_json(run / "config.json", config)
  described = {"audio": {"kind": "mmaudio"}, "video": {"kind": "wan_video"}}
  (run / "codecs" / "codecs.json").write_text(json.dumps(described))
  export.to_torch(run, tmp_path / "x")
  card = (tmp_path / "x" / "README.md").read_text()
  assert "- codec mmaudio: CC-BY-NC 4.0. MMAudio's published" in card
  assert "- codec wan-vae: Apache-2.0." in card
  assert "- initialised from wan: Apache-2.0" in card


def test_from_a_bucket_into_a_bucket(run, exported, monkeypatch):
  where = bucket.make()
  for name, content in contents(run).items():
    (where / "run" / name).write_bytes(content)
  # Orbax asks google-cloud-storage, which gcsfs brings, of what kind it is.
  steps = list(small_run.STEPS)
  monkeypatch.setattr(restore, "all_steps", lambda workdir: steps)
  server = gcs.serve(where, monkeypatch)
  try:
    export.to_torch(where / "run", where / "x")
  finally:
    server.shutdown()
    server.server_close()
  for name, content in contents(exported).items():
    assert (where / "x" / name).read_bytes() == content, name
  assert set(files.file_sizes(where / "x")) == set(contents(exported))


def test_refusals_leave_nothing(run, tmp_path, monkeypatch):
  cases = [
    ({"dtype": "float16"}, "expected one of float32, bfloat16"),
    ({"component": "audio"}, "expected one of all, video"),
  ]
  for options, words in cases:
    with pytest.raises(ValueError, match=words):
      export.to_torch(run, tmp_path / "x", **options)
  audio = tmp_path / "audio"
  settings = {**tiny.SETTINGS, **ALONE, "video": None}
  settings["audio"] = tiny.SETTINGS["audio"]
  audio.mkdir()
  workdirs.write(audio, 1, small_run.draw(1, settings), {"settings": settings})
  with pytest.raises(ValueError, match="no video stream"):
    export.to_torch(audio, tmp_path / "x", component="video")
  with pytest.raises(ValueError, match="not a training workdir"):
    export.to_torch(tmp_path / "nothing", tmp_path / "x")
  usage = shutil.disk_usage(tmp_path)._replace(free=1000)
  monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
  with pytest.raises(ValueError, match=r"needs up to 0\.0 GB; its disk has"):
    export.to_torch(run, tmp_path / "x")
  assert [p.name for p in tmp_path.iterdir()] == ["audio"]


def test_a_damaged_checkpoint(run, tmp_path):
  shutil.copytree(run, tmp_path / "run")
  data = max(
    (tmp_path / "run" / "checkpoints" / "5").rglob("d/*"),
    key=lambda p: p.stat().st_size,
  )
  data.write_bytes(data.read_bytes()[:-10])
  with pytest.raises(ValueError, match=r"cannot be read: .* bytes of"):
    export.to_torch(tmp_path / "run", tmp_path / "x")
  other = {**tiny.SETTINGS, "num_layers": 3}
  config = run_config.read(run) | {"model": other}
  text_files.write_json(tmp_path / "run" / "config.json", config)
  with pytest.raises(ValueError, match="lacks parameters of this model"):
    export.to_torch(tmp_path / "run", tmp_path / "x", step=2)
  assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_an_interrupted_export_can_be_run_again(
  run, exported, tmp_path, monkeypatch
):
  """What was there before stays until the new one is complete."""
  output = tmp_path / "x"
  output.mkdir()
  (output / "old").write_text("old")

  def interrupted(params, table):
    yield from itertools.islice(iter_state_dict(params, table), 3)
    raise KeyboardInterrupt

  monkeypatch.setattr(export, "iter_state_dict", interrupted)
  with pytest.raises(KeyboardInterrupt):
    export.to_torch(run, output)
  assert contents(tmp_path) == {"x/old": b"old"}
  monkeypatch.undo()
  export.to_torch(run, output)
  assert contents(output) == contents(exported)


def cast(x, dtype):
  return x.astype(dtype)


DAMAGES = {
  "renamed": (lambda a, n: a | {f"{n}s": a.pop(n)}, "nearest"),
  "extra": (lambda a, n: a | {"more": a[n]}, "only in the file"),
  "missing": (lambda a, n: {k: a[k] for k in a if k != n}, "not in the file"),
  "shape": (lambda a, n: a | {n: a[n][:-1]}, "of another shape"),
  "dtype": (lambda a, n: a | {n: cast(a[n], np.int32)}, "is int32"),
  "truncated": (None, "cut short"),
}


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("model", ["ccl", "wan"])
def test_damaged_weights_leave_nothing(exported, tmp_path, model, kind):
  damage, words = DAMAGES[kind]
  folder, settings = tmp_path / "x" / "transformer", tiny.SETTINGS
  shutil.copytree(exported, tmp_path / "x")
  arrays = load_file(folder / WEIGHTS)
  name = "video.blocks.1.attn1.to_q.weight"
  if model == "wan":
    prefix = "video."
    arrays = {
      k.removeprefix(prefix): x for k, x in arrays.items() if prefix in k[:6]
    }
    name = name.removeprefix(prefix)
  if damage is not None:
    arrays = damage(dict(arrays), name)
  save_file(arrays, folder / WEIGHTS)
  if damage is None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])
  output = tmp_path / "out"
  with pytest.raises(ValueError, match=words) as found:
    if model == "ccl":
      transformer.from_export(tmp_path / "x", output)
    else:
      transformer.from_torch(tmp_path / "x", output, sizes={"tiny": settings})
  assert str(folder) in str(found.value)
  assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_what_is_no_export(exported, tmp_path):
  output = tmp_path / "out"
  with pytest.raises(ValueError, match="expected a folder that to-torch wrote"):
    transformer.from_export(tmp_path, output)
  with pytest.raises(ValueError, match=r"in a bucket, .* copy it to a disk"):
    transformer.from_export("gs://bucket/x", output)
  folder = tmp_path / "transformer"
  folder.mkdir()
  for config, words in (
    ("{", "expected a folder that to-torch wrote"),
    ('{"_class_name": "WanTransformer3DModel"}', "--model=wan"),
    ('{"_class_name": "CCL", "ccl_version": 2}', "ccl_version 2"),
  ):
    (folder / "config.json").write_text(config)
    with pytest.raises(ValueError, match=words):
      transformer.from_export(tmp_path, output)
  assert not output.exists()


def test_bfloat16_is_rounded_to_nearest(exported, run, tmp_path):
  export.to_torch(run, tmp_path / "x", dtype="bfloat16")
  assert_equal(
    arrays_of(tmp_path / "x"), arrays_of(exported), ml_dtypes.bfloat16
  )
  assert set(wan.SIZES) >= {"14b", "1.3b"}
