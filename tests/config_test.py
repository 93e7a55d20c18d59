"""Config sections against constructors, and the config file itself."""

import dataclasses

import pytest

from ccl_jax.config import (
  FORMS,
  RENAMED,
  build,
  check_keys,
  check_pairs,
  check_patterns,
  dotted,
  new_path,
  upgrade,
)
from ccl_jax.generation.sampling_config import SamplingConfig
from ccl_jax.models import functional
from ccl_jax.params import trees
from configs import avdit, ccl, icac, lora, pods
from configs.ccl import get_config


@dataclasses.dataclass
class Part:
  width: int
  depth: int = 2


def test_a_section_builds_its_part():
  assert build(Part, {"depth": 3}, "part", width=1) == Part(1, 3)


@pytest.mark.parametrize(
  ("section", "words"),
  [
    ({"width": 1, "dept": 2}, "'part.dept'. Did you mean 'depth'"),
    ({"depth": 1}, "'part' lacks width"),
  ],
)
def test_unknown_and_missing_keys_are_named(section, words):
  with pytest.raises(ValueError, match=words):
    build(Part, section, "part")


def test_an_old_key_is_an_error_that_names_the_new_one():
  for where, key, new in (
    ("config", "steps", "num_train_steps"),
    ("sampling", "method", "sampling.solver"),
    ("model.fusion", "audio_half", "model.fusion.audio_window_radius"),
  ):
    with pytest.raises(ValueError, match=f"It is called '{new}' now"):
      check_keys([key], ["other"], where)


@pytest.mark.parametrize(
  "pairs",
  [
    "RUN", ("RUN",), (".*", 1e-3), (".*", "RUN"), ((".*",),), (1e-3,), 1e-3,
    ((".*", "1e-3"),), ((1e-3, ".*"),), ((".*", True),), ((".*", 1, 2),), None,
  ],
)  # fmt: skip
def test_what_is_not_pairs_is_an_error_that_shows_them(pairs):
  key = "optimizer.learning_rates"
  with pytest.raises(ValueError, match=r"learning_rates is .*RATE") as error:
    check_pairs(key, pairs, (float, int))
  assert "\n" not in str(error.value)
  check_pairs(key, ((".*", 1e-3), ["a", 0]), (float, int))
  check_pairs(key, (), (float, int))


@pytest.mark.parametrize("pattern", ["[", "*", "a{99999999999}", "(" * 9999])
def test_what_is_no_regex_is_an_error_that_names_it(pattern):
  check_patterns("init.fresh", [".*", "a/b"])
  with pytest.raises(ValueError, match=r"^init\.fresh: '.*' is no regex: "):
    check_patterns("init.fresh", [".*", pattern])


def test_keys_with_a_form_are_keys():
  known = dotted(get_config().to_dict()) | dotted(lora.get_config().to_dict())
  assert FORMS.keys() <= known.keys()
  assert dotted({"a": {"b": 1, "c": {}}, "d": ()}) == {
    "a.b": 1, "a.c": {}, "d": (),
  }  # fmt: skip


def test_new_paths_of_old_keys():
  for old, new in (
    ("steps", "num_train_steps"),
    ("initial", "init"),
    ("initial.sources", "init.from_runs"),
    ("initial.more.deep", "init.more.deep"),
    ("optimizer.rates", "optimizer.learning_rates"),
    ("optimizer", None),
    ("sampling.solver", None),
    ("nothing.steps", None),
  ):
    assert new_path(old) == new, old


def test_a_stored_config_of_an_earlier_version_becomes_todays():
  old = {
    "steps": 3,
    "seed": 1,
    "initial": {"sources": [["video/.*", "A"]], "new": ["fusion/.*"]},
    "optimizer": {"rates": [[".*", 1e-4]], "b1": 0.9, "warmup": 5},
    "model": {"num_layers": 2, "fusion": {"audio_half": 1, "kind": "cca"}},
    "sampling": {"steps": 20, "method": "unipc"},
  }
  expected = {
    "num_train_steps": 3,
    "seed": 1,
    "init": {"from_runs": [["video/.*", "A"]], "fresh": ["fusion/.*"]},
    "optimizer": {
      "learning_rates": [[".*", 1e-4]], "b1": 0.9, "warmup_steps": 5,
    },
    "model": {
      "num_layers": 2, "fusion": {"audio_window_radius": 1, "kind": "cca"},
    },
    "sampling": {"num_inference_steps": 20, "solver": "unipc"},
  }  # fmt: skip
  assert upgrade(old) == expected
  assert upgrade(expected) == expected


def test_new_names_are_in_the_config_and_old_ones_are_not():
  config = get_config().to_dict()

  def has(path):
    section = config
    for key in path.split("."):
      if not isinstance(section, dict) or key not in section:
        return False
      section = section[key]
    return True

  for old, new in RENAMED.items():
    assert has(new) and not has(old), (old, new)


def test_a_misspelt_override_is_an_error_with_a_suggestion():
  with pytest.raises(AttributeError, match="Did you mean"):
    get_config("size=tiny").num_train_step = 3


@pytest.mark.parametrize(
  "arg", ["sise=tiny", "size=huge", "stage=both", "tiny"]
)
@pytest.mark.parametrize("config", [ccl, pods])
def test_unknown_arguments_are_errors(config, arg):
  with pytest.raises(ValueError, match="expected"):
    config.get_config(arg)


def test_a_pod_sets_the_mesh_and_what_fits_it():
  c = pods.get_config("pod=v5e-4x4-two-slices,size=1.3b")
  assert (c.mesh.data, c.mesh.fsdp, c.mesh.num_slices) == (2, 16, 2)
  assert c.grad_accumulation_steps == 320 // 32
  by_slice = ccl.get_config("size=1.3b,fsdp_over=slice").sharding.params
  assert c.sharding.params == by_slice
  with pytest.raises(ValueError, match=r"pod='v9'.*v5p-4x4x4"):
    pods.get_config("pod=v9")


@pytest.mark.parametrize("attention", icac.CHOICES["attention"])
def test_audio_in_context_has_the_sizes_of_the_video(attention):
  c = icac.get_config(f"size=1.3b,attention={attention}")
  video, audio = c.model.video, c.model.audio
  assert audio.in_context and audio.heads == video.heads == 12
  assert (audio.width, audio.ffn) == (video.width, video.ffn)
  assert c.sampling.cache_reference == (attention in icac.NEVER_UPDATED)
  _, params = functional.describe(c.model.to_dict())
  assert set(params["audio"]) == {"embed"}
  with pytest.raises(ValueError, match="masked3d, full3d, cross2d"):
    icac.get_config("attention=4d")


@pytest.mark.parametrize(
  ("c", "chips"),
  [(icac.get_config("pod=v5p-4x4x4"), 64),
   (icac.get_config("pod=v5p-4x8x8,attention=full3d"), 256),
   (avdit.get_config("pod=v5e-4x4"), 16)],
)  # fmt: skip
def test_a_pod_of_the_other_systems_has_all_chips_and_parts(c, chips):
  shards = c.mesh.data * c.mesh.fsdp
  assert shards * c.mesh.context == chips
  assert c.batch_size % (shards * c.grad_accumulation_steps) == 0
  assert c.model.remat.startswith("attention")


@pytest.mark.parametrize("stage", avdit.CHOICES["stage"])
@pytest.mark.parametrize("size", avdit.CHOICES["size"])
def test_the_image_model_is_one_of_both_stages(size, stage):
  c = avdit.get_config(f"size={size},stage={stage}")
  _, params = functional.describe(c.model.to_dict())
  alone = avdit.get_config(f"size={size},stage=image").model.to_dict()
  assert params["video"].keys() == functional.describe(alone)[1]["video"].keys()
  assert (c.model.video.width, c.model.num_layers) == {
    "xl": (1152, 28), "tiny": (64, 3)
  }[size]  # fmt: skip
  if stage == "joint":
    rates = trees.match(c.optimizer.learning_rates, params)
    frozen = {p for p, rate in trees.flatten(rates).items() if not rate}
    assert any(p.startswith("video/blocks/") for p in frozen)
    assert all(p.startswith("video/") for p in frozen)
    assert not c.sampling.cache_reference


def test_the_config_has_every_setting_of_sampling_with_its_default():
  section = get_config().sampling.to_dict()
  assert section == dataclasses.asdict(SamplingConfig())


def test_the_paper_numbers():
  c = get_config()
  assert (c.num_train_steps, c.batch_size) == (12_000, 320)
  assert tuple(c.objective.probabilities) == (0.10, 0.15, 0.15, 0.60)
  assert c.model.fusion.num_audio_lct == 8
  assert c.model.fusion.num_video_lct == 128
  assert tuple(c.optimizer.learning_rates) == (
    ("fusion/.*", 1e-4),
    (".*", 1e-5),
  )
  audio = get_config("stage=audio")
  assert (audio.num_train_steps, audio.batch_size, audio.model.video) == (
    160_000,
    3200,
    None,
  )


@pytest.mark.parametrize(
  "value, wrong",
  [
    ({"names": ("a",), "sizes": (1, 2), "shares": (0.5, 1)}, None),
    ({"names": (3,)}, r"section.names is \(3,\): expected texts"),
    ({"sizes": (1, 2.5)}, "expected whole numbers in parentheses"),
    ({"sizes": (True,)}, "expected whole numbers"),
    ({"shares": ("a",)}, "expected numbers"),
    ({"names": "a"}, "expected texts"),
  ],
)
def test_tuples_have_the_items_of_the_constructor(value, wrong):
  def make(
    names: tuple[str, ...] = (),
    sizes: tuple[int, ...] = (),
    shares: tuple[float, ...] = (),
    other: tuple[int, str] | None = None,
  ):
    return names, sizes, shares, other

  if wrong is None:
    assert build(make, value, "section")[:3] == tuple(value.values())
    return
  with pytest.raises(ValueError, match=wrong):
    build(make, value, "section")
