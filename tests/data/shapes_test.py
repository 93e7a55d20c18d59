"""Batches of clips of several shapes, each batch of one."""

import collections

import numpy as np
import pytest

from ccl_jax.data.clip import ClipShape
from ccl_jax.data.loader import Loader, fit_batch
from tests.data import clips

# Frames, size and number of clips: 2 x 6 + 10 latents, 3 x 4 + 15, 1 x 6 + 5.
SHAPES = {(5, (16, 24)): 12, (9, (16, 16)): 6, (1, (16, 24)): 3}
LATENTS = (22, 27, 11)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
  """A set of three shapes, and one of two, of which one is new."""
  folder = tmp_path_factory.mktemp("sets")
  clips.write_shapes(folder / "three", "three", SHAPES)
  sounds = {(5, (16, 24)): 4, (5, (16, 16)): 4}
  clips.write_shapes(folder / "sounds", "sounds", sounds, ["video"])
  return folder


def seen(loader, steps):
  """The bucket and the names of each step."""
  return [(loader.bucket_at(i), loader.names_at(i)) for i in range(steps)]


def test_a_batch_is_of_one_shape_and_complete(sets):
  loader = Loader(sets / "three", batch_size=2)
  assert [b.clip.frames for b in loader.buckets] == [5, 9, 1]
  for step in range(12):
    k = loader.bucket_at(step)
    batch, bucket = loader.batch_at(step), loader.buckets[k]
    assert batch["video"].shape == (2, *bucket.shapes["video"])
    assert batch["audio"].shape == (2, *bucket.shapes["audio"])
    assert all(f" {bucket.clip} " in name for name in loader.names_at(step))


def test_each_clip_is_seen_as_often(sets):
  """Each shape has its share of the steps, and of its epoch each clip once."""
  loader = Loader(sets / "three", batch_size=3)
  found = seen(loader, 70)
  steps = collections.Counter(k for k, _ in found)
  assert steps == {0: 40, 1: 20, 2: 10}
  for n in range(7, 70, 7):  # from the first steps on
    part = collections.Counter(k for k, _ in found[:n])
    assert all(abs(part[k] - steps[k] * n / 70) <= 1 for k in steps)
  counts = collections.Counter(name for _, names in found for name in names)
  assert set(counts.values()) == {10} and len(counts) == 21
  first = [name for k, names in found[:7] if k == 0 for name in names]
  assert len(set(first)) == 12 and first != sorted(first)


def test_clips_are_drawn_as_often_as_they_have_tokens(sets):
  loader = Loader(sets / "three", batch_size=2, bucket_shares="tokens")
  steps = collections.Counter(loader.bucket_at(i) for i in range(4000))
  parts = np.array([12 * 22, 6 * 27, 3 * 11]) / (12 * 22 + 6 * 27 + 3 * 11)
  np.testing.assert_allclose(
    [steps[k] / 4000 for k in range(3)], parts, atol=0.01
  )


def test_batches_have_a_budget_of_tokens(sets):
  loader = Loader(sets / "three", batch_size=7, batch_tokens=60)
  assert loader.batch_sizes == [60 // n for n in LATENTS]
  steps = collections.Counter(loader.bucket_at(i) for i in range(900))
  # Each clip as often as any other: the steps are as the clips by the batch.
  parts = np.array([12 / 2, 6 / 2, 3 / 5])
  found = [steps[k] / 900 for k in range(3)]
  np.testing.assert_allclose(found, parts / parts.sum(), atol=0.01)
  assert len(loader.names_at(0)) == loader.batch_sizes[loader.bucket_at(0)]


@pytest.mark.parametrize(
  ("budget", "multiple", "expected"), [(60, 1, 2), (60, 4, 2), (200, 4, 8)]
)
def test_a_budget_is_divided_among_devices(budget, multiple, expected):
  clip = ClipShape(25.0, 5, (16, 24))
  assert fit_batch(clip, 22, budget, multiple) == expected
  with pytest.raises(
    ValueError, match=r"batch_tokens is 21: a clip of 5x16x24"
  ):
    fit_batch(clip, 22, 21)


def test_weights_are_of_examples_in_all_shapes(sets):
  sources = ((str(sets / "three"), 3), (str(sets / "sounds"), 1))
  loader = Loader(sources=sources, batch_size=4)
  assert len(loader.buckets) == 4
  names = [name for _, names in seen(loader, 500) for name in names]
  share = sum(name.startswith("sounds") for name in names) / len(names)
  assert abs(share - 0.25) < 0.01
  mixed = [names for k, names in seen(loader, 50) if k == 0]
  sets_of_first = {name.split()[0] for names in mixed for name in names}
  assert sets_of_first == {"three", "sounds"}
  progress = loader.progress_at(21)
  assert progress["epochs/three"] == pytest.approx(84 * 0.75 / 21)
  assert progress["epochs/sounds"] == pytest.approx(84 * 0.25 / 8)
  assert "of 9x16x16" in str(loader.mixture)


@pytest.mark.parametrize("num_threads", [0, 2])
def test_hosts_and_restarts_see_one_order(sets, num_threads):
  sources = ((str(sets / "three"), 3), (str(sets / "sounds"), 1))
  options = dict(sources=sources, batch_size=4, seed=5, batch_tokens=88)
  whole = Loader(**options)
  halves = [
    Loader(
      rows=lambda size, half=half: range(size)[half::2],
      num_threads=num_threads,
      **options,
    )
    for half in range(2)
  ]
  for step in (6, 7, 8, 10**12, 1):  # restarts, in any order
    expected = whole.batch_at(step)
    for half, loader in enumerate(halves):
      assert loader.bucket_at(step) == whole.bucket_at(step)
      found = loader.batch_at(step)
      for name, x in expected.items():
        x = x if name == "null_text" else x[half::2]
        np.testing.assert_array_equal(found[name], x)


def test_an_added_set_keeps_the_order_of_the_clips_of_others(sets):
  one = Loader(sets / "three", batch_size=1, seed=2)
  sources = ((str(sets / "three"), 1), (str(sets / "sounds"), 1))
  both = Loader(sources=sources, batch_size=1, seed=2)

  def order(loader, shape):
    names = [name for _, (name,) in seen(loader, 120)]
    return [x for x in names if x.startswith(f"three {shape}")]

  for shape in ("5x16x24", "9x16x16", "1x16x24"):
    old, new = order(one, shape), order(both, shape)
    num = min(len(old), len(new))
    assert num > 5 and old[:num] == new[:num]


def test_one_shape_is_read_as_without_buckets(sets, tmp_path):
  plain = clips.write_shapes(tmp_path / "plain", "three", {(5, (16, 24)): 12})
  loader = Loader(plain, batch_size=4, seed=1)
  names = [name for step in range(3) for name in loader.names_at(step)]
  first = [
    names for k, names in seen(Loader(sets / "three", batch_size=4, seed=1), 9)
    if k == 0
  ]  # fmt: skip
  assert [name for names in first for name in names][:12] == names


@pytest.mark.parametrize(
  ("changes", "reason"),
  [
    ({"bucket_shares": "clips"}, "expected one of samples, tokens"),
    ({"batch_tokens": 20}, "batch_tokens is 20"),
    ({"split": "test"}, "No split 'test'"),
  ],
)
def test_wrong_settings_are_one_error(sets, changes, reason):
  with pytest.raises(ValueError, match=reason) as caught:
    Loader(sets / "three", batch_size=2, **changes)
  assert "\n" not in str(caught.value)
