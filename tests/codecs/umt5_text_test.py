"""Prompts in any number and order give what each gives alone."""

import dataclasses

import numpy as np
import pytest

from ccl_jax.codecs import converted_weights, umt5
from ccl_jax.codecs.api import kind_of, make_codec
from ccl_jax.codecs.umt5_text import UMT5TextCodec
from ccl_jax.params import nnx_utils
from ccl_jax.params.sharding import ONE_DEVICE
from tests.codecs.draw import draw
from tests.codecs.vocabulary import SENTENCES, train

MODEL = umt5.UMT5Config(
  vocab=64, width=16, ffn=24, heads=4, head_size=4, layers=2,
  dtype="float32", param_dtype="float32",
)  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """The arguments of a codec: a folder of weights, and a tokenizer."""
  folder = tmp_path_factory.mktemp("umt5")
  params = draw(nnx_utils.param_shapes(umt5.UMT5, MODEL))
  about = {"model": "umt5", "settings": dataclasses.asdict(MODEL)}
  converted_weights.write(folder / "weights", params, about)
  (folder / "spiece.model").write_bytes(train())
  return dict(
    weights=str(folder / "weights"), tokenizer=str(folder / "spiece.model")
  )


@pytest.fixture(scope="module")
def codec(saved):
  return UMT5TextCodec(**saved, max_length=40, batch_tokens=80)


def test_all_are_as_one(codec):
  texts = [SENTENCES[0], "", "a dog", SENTENCES[0] * 9, *SENTENCES[1:], ""]
  vectors = codec.encode_all(texts)
  lengths = [len(x) for x in vectors]
  assert lengths == [min(codec.num_tokens(t), 40) for t in texts]
  assert lengths[1] == 1 and lengths[3] == 40
  assert all(x.dtype == np.float32 and x.shape[1] == 16 for x in vectors)
  np.testing.assert_allclose(vectors[1], vectors[-1], rtol=1e-5, atol=1e-6)
  ids = np.array([codec.tokenize(texts[3], 40)], np.int32)
  alone = umt5.encode(codec.params, ids, np.array([40], np.int32), config=MODEL)
  np.testing.assert_allclose(vectors[3], alone[0], rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(
    vectors[2], codec.encode("a dog"), rtol=1e-4, atol=1e-5
  )
  assert codec.encode_all([]) == []


def test_batches_are_few_shapes(codec):
  lengths = [*range(1, 41), 3, 3]
  batches = list(codec.make_batches(lengths))
  assert sorted(i for chosen, _ in batches for i in chosen) == [*range(42)]
  assert {padded for _, padded in batches} == {32, 40}
  for chosen, padded in batches:
    assert len(chosen) * padded <= 80
    assert max(lengths[i] for i in chosen) <= padded


def test_settings_open_it_again_without_the_weights(codec, saved):
  absent = codec.settings() | {"weights": "nowhere", "tokenizer": "nowhere"}
  again = make_codec("umt5", ONE_DEVICE, absent)
  assert kind_of(again) == "umt5" and again.arrays() == {}
  assert again.width == 16 and again.settings() == absent
  with pytest.raises(ValueError, match="tokenizer nowhere does not exist"):
    again.encode("a dog")
  with pytest.raises(ValueError, match="folder of converted weights"):
    UMT5TextCodec("nowhere", saved["tokenizer"])


def test_wrong_arguments(saved, tmp_path):
  with pytest.raises(ValueError, match="must be positive"):
    UMT5TextCodec(**saved, max_length=0)
  small = dataclasses.asdict(dataclasses.replace(MODEL, vocab=40))
  converted_weights.write(
    tmp_path / "small", {"x": np.zeros(1)}, {"settings": small}
  )
  codec = UMT5TextCodec(str(tmp_path / "small"), saved["tokenizer"])
  with pytest.raises(ValueError, match=r"has 49 tokens, the model in .* 40"):
    codec.num_tokens("a dog")
