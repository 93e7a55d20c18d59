"""Several data sets in one run."""

import collections

import numpy as np
import pytest

from ccl_jax.codecs.api import Codecs
from ccl_jax.codecs.hashed_text import HashedText
from ccl_jax.codecs.linear import LinearAudioCodec, LinearVideoCodec
from ccl_jax.data.clip import ClipShape
from ccl_jax.data.loader import Loader
from ccl_jax.data.mixture import list_sources, main_path
from tests.data import clips

NUM = {"both": 10, "sounds": 10, "silent": 7}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
  """Three data sets: one has both streams, the others one each."""
  folder, codecs = tmp_path_factory.mktemp("sets"), clips.codecs()
  lacks = {"both": {}, "sounds": {"video": None}, "silent": {"audio": None}}
  for name, fields in lacks.items():
    examples = [
      clips.example(codecs, i, name=f"{name} {i}", **fields)
      for i in range(NUM[name])
    ]
    clips.write_records(folder / name, codecs, examples)
  return folder


def sources(sets, **weights):
  return tuple((str(sets / name), weight) for name, weight in weights.items())


def names(loader, steps):
  return [name for step in range(steps) for name in loader.names_at(step)]


def counts(found):
  return collections.Counter(name.split()[0] for name in found)


def assert_equal_batches(one, other):
  assert one.keys() == other.keys()
  for key in one:
    np.testing.assert_array_equal(one[key], other[key])


def test_one_source_gives_the_batches_of_its_path(sets):
  plain = Loader(sets / "both", batch_size=4, seed=3)
  mixed = Loader(sources=sources(sets, both=0.2), batch_size=4, seed=3)
  for step in (0, 1, 7):
    assert_equal_batches(plain.batch_at(step), mixed.batch_at(step))
    assert plain.names_at(step) == mixed.names_at(step)


@pytest.mark.parametrize(
  "weights",
  [
    (1, 1, 1),
    (0.5, 0.3, 0.2),
    (6, 1, 3),
    (0.001, 1.0, 0.5),
    (1e-9, 1e-9, 2e-9),
  ],
)
def test_shares_are_the_weights_from_the_first_batches_on(sets, weights):
  weights = dict(zip(NUM, weights, strict=True))
  loader = Loader(sources=sources(sets, **weights), batch_size=20)
  total = sum(weights.values())
  found = names(loader, 50)
  for num in (100, 1000):
    seen = counts(found[:num])
    for name, weight in weights.items():
      share = num * weight / total
      assert abs(seen[name] - share) <= 1.5 + 0.01 * share, (name, seen)


def test_a_sample_has_the_streams_of_its_source(sets):
  loader = Loader(
    sources=sources(sets, both=1, sounds=1, silent=1), batch_size=9
  )
  batch, found = loader.batch_at(2), loader.names_at(2)
  kinds = [name.split()[0] for name in found]
  assert batch["has_video"].tolist() == [kind != "sounds" for kind in kinds]
  assert batch["has_audio"].tolist() == [kind != "silent" for kind in kinds]
  assert not batch["video"][[kind == "sounds" for kind in kinds]].any()


def test_each_epoch_of_a_source_has_each_of_its_clips_once(sets):
  loader = Loader(sources=sources(sets, both=2, silent=1), batch_size=6)
  for name in ("both", "silent"):
    own = [x for x in names(loader, 40) if x.startswith(name)]
    epochs = [own[i : i + NUM[name]] for i in range(0, 30, NUM[name])]
    for epoch in epochs[:-1]:
      assert len(set(epoch)) == NUM[name]
    assert epochs[0] != epochs[1]
  # Sets of one length are not in the same order.
  pair = Loader(sources=sources(sets, both=1, sounds=1), batch_size=20)
  orders = [
    [x.split()[1] for x in pair.names_at(0) if x.startswith(name)]
    for name in ("both", "sounds")
  ]
  assert sorted(orders[0]) == sorted(orders[1]) and orders[0] != orders[1]


@pytest.mark.parametrize("num_threads", [0, 2])
def test_hosts_and_restarts_see_one_stream(sets, num_threads):
  chosen = sources(sets, both=0.5, sounds=0.3, silent=0.2)
  whole = Loader(sources=chosen, batch_size=4, seed=1)
  for rows in ([0, 1], [3], [2, 0, 1, 3]):
    loader = Loader(
      sources=chosen, batch_size=4, seed=1, rows=rows, num_threads=num_threads
    )
    for step in (7, 8, 10**12, 2):
      expected, found = whole.batch_at(step), loader.batch_at(step)
      for name, x in expected.items():
        x = x if name == "null_text" else x[rows]
        np.testing.assert_array_equal(found[name], x)


def test_an_added_source_keeps_the_order_of_the_others(sets):
  """The rule for a run that goes on with another set: as if always there."""
  before = Loader(sources=sources(sets, both=1, sounds=1), batch_size=4)
  after = Loader(
    sources=sources(sets, both=1, sounds=1, silent=2), batch_size=8
  )
  for name in ("both", "sounds"):
    old, new = (
      [x for x in names(loader, 20) if x.startswith(name)]
      for loader in (before, after)
    )
    assert old[:40] == new[:40] and len(new) >= 40
  resumed = Loader(
    sources=sources(sets, both=1, sounds=1, silent=2), batch_size=8
  )
  assert_equal_batches(resumed.batch_at(5), after.batch_at(5))


def test_variances_of_one_source_are_drawn(sets, tmp_path):
  codecs = clips.codecs()
  made = [clips.example(codecs, i, name=f"drawn {i}") for i in range(3)]
  made = [x._replace(video_logvar=0 * x.video - 2) for x in made]
  clips.write_records(tmp_path / "drawn", codecs, made, logvar=("video",))
  chosen = (*sources(sets, both=1), (str(tmp_path / "drawn"), 1))
  one, other = (Loader(sources=chosen, batch_size=6, seed=i) for i in (0, 0))
  mean = Loader(sources=chosen, batch_size=6, seed=0, sample_posterior=False)
  assert_equal_batches(one.batch_at(3), other.batch_at(3))
  drawn = [name.startswith("drawn") for name in one.names_at(3)]
  differs = (one.batch_at(3)["video"] != mean.batch_at(3)["video"]).any(
    (1, 2, 3, 4)
  )
  assert differs.tolist() == drawn and 0 < sum(drawn) < 6


def test_the_log_has_weights_and_epochs(sets):
  loader = Loader(sources=sources(sets, both=3, silent=1), batch_size=8)
  values = loader.progress_at(35)
  assert values == {
    "weight/both": 0.75, "epochs/both": 21.0,
    "weight/silent": 0.25, "epochs/silent": 10.0,
  }  # fmt: skip
  assert "75.00%" in str(loader.mixture) and "7 clips" in str(loader.mixture)


@pytest.mark.parametrize(
  ("chosen", "reason"),
  [
    ((("A", 0),), "'A' has the weight 0, expected a positive"),
    ((("A", 1), ("B", -1.0)), "'B' has the weight -1.0"),
    ((("A", float("nan")),), "the weight nan"),
    ((("A", float("inf")),), "the weight inf"),
    ((("A", 1), ("A", 2)), "'A' twice"),
    ((("./A/", 1), ("B", 1), ("A", 2)), "'./A/' twice"),
    ((("gs://b/A/", 1), ("gs://b/A", 2)), "'gs://b/A/' twice"),
    (("A", 1), "expected pairs"),
    ((("A", True),), "expected pairs"),
    ((("A", "1"),), "expected pairs"),
    ((("A",),), "expected pairs"),
  ],
)
def test_wrong_sources_are_one_error(chosen, reason):
  with pytest.raises(ValueError, match=reason) as caught:
    list_sources("", chosen)
  assert "\n" not in str(caught.value)


def test_path_and_sources_exclude_each_other():
  assert main_path({"path": "A"}) == "A"
  assert main_path({"path": "", "sources": [["B", 2], ["A", 1]]}) == "B"
  with pytest.raises(ValueError, match=r"data\.path is 'A' and data\.sources"):
    list_sources("A", (("B", 1),))
  with pytest.raises(ValueError, match=r"data\.path is not set"):
    list_sources()


def write_other(path, codecs=None, **shape):
  codecs = codecs or clips.codecs()
  shape = ClipShape(
    *({"fps": clips.FPS, "frames": 5, "size": clips.SIZE} | shape).values()
  )
  data = clips.clip(0, frames=shape.frames, size=shape.size)
  made = clips.example(
    codecs, 0, video=codecs.video.encode(data.video[None])[0],
    audio=codecs.audio.encode(data.audio[None])[0],
  )  # fmt: skip
  clips.write_records(path, codecs, [made], shape=shape)


def other_codecs():
  some = [clips.clip(i) for i in range(20, 30)]
  return Codecs(
    LinearVideoCodec.fit([c.video for c in some], 8),
    LinearAudioCodec.fit([c.audio for c in some], 6),
    HashedText(width=8, max_length=6),
  )


@pytest.mark.parametrize(
  ("make", "reason"),
  [
    (lambda path: None, "no metadata.json"),
    (lambda path: write_other(path, fps=20.0), r"fps 20\.0, not 25\.0"),
    (lambda path: write_other(path, other_codecs()), "other codecs than"),
  ],
)
def test_sets_that_differ_are_one_error(sets, tmp_path, make, reason):
  make(tmp_path / "other")
  chosen = (*sources(sets, both=1), (str(tmp_path / "other"), 1))
  with pytest.raises(ValueError, match=reason) as caught:
    Loader(sources=chosen, batch_size=2)
  assert "\n" not in str(caught.value) and "other" in str(caught.value)


def test_a_source_without_the_split_is_an_error(sets, tmp_path):
  codecs = clips.codecs()
  made = [clips.example(codecs, i, split="test") for i in range(2)]
  clips.write_records(tmp_path / "tests", codecs, made)
  chosen = (*sources(sets, both=1), (str(tmp_path / "tests"), 1))
  with pytest.raises(ValueError, match=r"No split 'train' in .*tests"):
    Loader(sources=chosen, batch_size=2)
