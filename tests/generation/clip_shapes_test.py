"""The clips that a run of several shapes can make."""

import json

import pytest
from etils import epath

from ccl_jax.data.clip import ClipShape
from ccl_jax.generation.clip_shapes import choose_shape, read_shapes
from ccl_jax.generation.sampling_config import SamplingConfig

SHAPES = [
  ClipShape(25.0, 121, (352, 640)), ClipShape(25.0, 49, (352, 640)),
  ClipShape(25.0, 49, (640, 352)),
]  # fmt: skip


@pytest.mark.parametrize(
  ("size", "seconds", "expected"),
  [
    ((), None, 0), ((640, 352), None, 2), ((), 2.0, 1), ((), 1.96, 1),
    ((640, 352), 1.9, 2), ((352, 640), 4.84, 0), ((), 4.75, 0),
  ],
)  # fmt: skip
def test_a_trained_shape_is_chosen(size, seconds, expected):
  assert choose_shape(SHAPES, size, seconds) == SHAPES[expected]


@pytest.mark.parametrize(
  ("size", "seconds", "text"),
  [((64, 64), None, "--size=64,64: "), ((640, 352), 4.84, "--seconds=4.84: "),
   ((), 9.0, "--seconds=9: ")],
)  # fmt: skip
def test_other_clips_are_one_error(size, seconds, text):
  with pytest.raises(ValueError, match=text) as caught:
    choose_shape(SHAPES, size, seconds)
  assert str(caught.value).endswith("--size=640,352 --seconds=1.96.")


def test_runs_of_one_shape_know_one(tmp_path):
  clip = {"fps": 25.0, "frames": 49, "size": [64, 64]}
  for extra, expected in (({}, 1), ({"buckets": [[49, 64, 64], [9, 8, 8]]}, 2)):
    (tmp_path / "clip.json").write_text(json.dumps(clip | extra))
    found = read_shapes(epath.Path(tmp_path))
    assert len(found) == expected
    assert found[0] == ClipShape(25.0, 49, (64, 64))


def test_the_shift_of_a_shape_is_that_of_its_training():
  config = SamplingConfig(shift=3.0)
  shapes = {"video": (13, 16, 16, 10), "audio": (65, 8)}
  assert config.for_shapes(shapes, ()) is config
  own = config.for_shapes(shapes, (49, 64, 64))
  assert own.shift == 6.0 and own.audio_shift == 3.0
