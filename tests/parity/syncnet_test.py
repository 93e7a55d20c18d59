"""SyncNet against PyTorch on random weights."""

import numpy as np
import pytest

from ccl_jax.metrics.real import syncnet
from tests.parity.redraw import redraw

NUM = 3  # windows


@pytest.fixture(scope="module")
def model():
  from tests.parity.torch_syncnet import SyncNet

  model = redraw(SyncNet())
  for name, x in model.named_buffers():
    if "running" in name:
      x.uniform_(0.5, 1.5)
  return model


@pytest.fixture(scope="module")
def params(model, tmp_path_factory):
  import torch

  path = tmp_path_factory.mktemp("syncnet") / syncnet.FILE
  # The published file is of the time before PyTorch's files were zips.
  torch.save(model.state_dict(), path, _use_new_zipfile_serialization=False)
  return syncnet.load(path)


def assert_close(ours, theirs):
  theirs = theirs.numpy()
  assert ours.shape == theirs.shape
  assert np.abs(theirs).max() > 0.1
  # A vector's values are sums of thousands of products, up to 80, which CPUs
  # add up in another order when they are busy.
  atol = 1e-5 * np.abs(theirs).max()
  np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=atol)


def test_all_faces_at_once_equal_pytorch_window_by_window(model, params):
  import torch

  faces = np.random.default_rng(0).uniform(0, 255, (NUM + 4, 224, 224, 3))
  faces = faces.astype(np.float32)
  windows = np.stack([faces[i : i + 5] for i in range(NUM)])
  with torch.no_grad():
    theirs = model.face(torch.from_numpy(windows.transpose(0, 4, 1, 2, 3)))
  assert_close(syncnet.embed_faces(params, faces), theirs)


def test_voices_equal_pytorch(model, params):
  import torch

  mfcc = np.random.default_rng(1).normal(0, 20, (20 + 4 * NUM, 13))
  mfcc = mfcc.astype(np.float32)
  windows = np.stack([mfcc[4 * i : 4 * i + 20].T for i in range(NUM)])
  with torch.no_grad():
    theirs = model.voice(torch.from_numpy(windows[:, None]))
  assert_close(syncnet.embed_voice(params, mfcc, NUM), theirs)


def test_a_file_of_another_model_is_told(tmp_path):
  import torch

  path = tmp_path / syncnet.FILE
  torch.save({"netcnnaud.0.weight": torch.zeros(64, 1, 3, 5)}, path)
  with pytest.raises(ValueError, match=r"not SyncNet's .* arrays differ"):
    syncnet.load(path)
