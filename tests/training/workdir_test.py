"""A model fits the clips that it is trained on."""

import json

import pytest

from ccl_jax.codecs.linear import LinearAudioCodec
from ccl_jax.training.workdir import check_model_fits, fit_to_data
from tests import runs

OLD_24, NEW_24 = 49 * 5, 255  # audio latents of 193 frames


def fit(tmp_path, rate, num_latents, per_frame, **fusion):
  """Returns the model of a config after it met data of this rate."""
  shapes = {"video": [49, 8, 8, 6], "audio": [num_latents, 6]}
  data = {"fps": rate, "shapes": shapes}
  (tmp_path / "metadata.json").write_text(json.dumps(data))
  runs.codecs().save(tmp_path / "codecs")
  model = runs.MODEL | {
    "audio": runs.MODEL["audio"] | {"tokens_per_frame": per_frame},
    "fusion": runs.MODEL["fusion"] | fusion,
  }
  config = {"model": model, "data": {"path": str(tmp_path)}}
  fitted = fit_to_data(config)
  assert config["model"]["audio"]["tokens_per_frame"] == per_frame
  return fitted["model"]


@pytest.mark.parametrize(
  ("fps", "num_latents", "per_frame"),
  [
    (25.0, 49 * 5, 5),
    (25.0, 49 * 5, 5.0),
    (24.0, NEW_24, 125 / 24),
    (24.0, NEW_24, 5.20833),
    (24.0, OLD_24, 5),  # of an early version, with its data
    (16.0, 383, 7.8125),
  ],
)
def test_latents_in_a_frame_that_fit_stay(
  tmp_path, capsys, fps, num_latents, per_frame
):
  model = fit(tmp_path, fps, num_latents, per_frame)
  assert model["audio"]["tokens_per_frame"] == per_frame
  assert not capsys.readouterr().out


@pytest.mark.parametrize(
  ("fps", "num_latents", "per_frame", "right"),
  [
    (24.0, NEW_24, 5.0, 125 / 24),
    (24.0, OLD_24, 125 / 24, 5.0),
    (24.0, NEW_24, 5.2, 125 / 24),
    (16.0, 383, 8, 7.8125),
    (12.5, 490, 5.0, 10.0),
    (60.0, 102, 5.0, 125 / 60),
  ],
)
def test_others_are_taken_from_the_data(
  tmp_path, capsys, fps, num_latents, per_frame, right
):
  model = fit(tmp_path, fps, num_latents, per_frame)
  assert model["audio"]["tokens_per_frame"] == right
  said = (
    f"model.audio.tokens_per_frame is {right:.7g}, as the data have {fps:g}"
  )
  assert said in capsys.readouterr().out


def test_the_rate_is_that_of_the_codec(tmp_path, monkeypatch):
  """Such as Wav2Vec2's, 50 features a second."""
  monkeypatch.setattr(LinearAudioCodec, "rate", 50.0)
  model = fit(tmp_path, 25.0, 49 * 8, 5.0)
  assert model["audio"]["tokens_per_frame"] == 8.0


def test_positions_in_seconds_take_the_rate(tmp_path):
  """Where c is whole; else it is c that they are counted by."""
  for positions in ("seconds", "fine"):
    model = fit(tmp_path, 12.5, 490, 5.0, positions=positions, fps=25.0)
    assert model["fusion"]["fps"] == 12.5
  assert fit(tmp_path, 12.5, 490, 10, fps=25.0)["fusion"]["fps"] == 25.0
  model = fit(tmp_path, 24.0, NEW_24, 5.0, positions="fine", fps=25.0)
  assert model["fusion"]["fps"] == 25.0


def test_other_sizes_are_named():
  text = r"text_width is 9, the data have [0-9]*; .*audio.channels is 9"
  audio = runs.MODEL["audio"] | {"channels": 9}
  with pytest.raises(ValueError, match=text):
    check_model_fits(
      runs.MODEL | {"text_width": 9, "audio": audio}, runs.codecs()
    )
