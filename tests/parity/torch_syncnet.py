"""SyncNet in PyTorch, from the layers of the paper's model."""

from torch import nn


def _block(kind, out, into, kernel, stride=1, padding=0, pool=None):
  conv, norm, maximum = kind
  layers = [conv(into, out, kernel, stride, padding), norm(out), nn.ReLU()]
  return layers + ([maximum(*pool)] if pool else [])


def _head():
  return nn.Sequential(
    nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 1024)
  )


class SyncNet(nn.Module):
  """Names of parameters are those of the published file."""

  def __init__(self):
    super().__init__()
    flat = nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d
    self.netcnnaud = nn.Sequential(
      *_block(flat, 64, 1, 3, 1, 1, pool=(1, 1)),
      *_block(flat, 192, 64, 3, 1, 1, pool=(3, (1, 2))),
      *_block(flat, 384, 192, 3, 1, 1),
      *_block(flat, 256, 384, 3, 1, 1),
      *_block(flat, 256, 256, 3, 1, 1, pool=(3, 2)),
      *_block(flat, 512, 256, (5, 4)),
    )
    deep = nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d
    half, window = (1, 2, 2), (1, 3, 3)
    same = dict(kernel=window, padding=(0, 1, 1))
    self.netcnnlip = nn.Sequential(
      *_block(deep, 96, 3, (5, 7, 7), half, pool=(window, half)),
      *_block(
        deep, 256, 96, (1, 5, 5), half, (0, 1, 1), (window, half, (0, 1, 1))
      ),
      *_block(deep, 256, 256, **same),
      *_block(deep, 256, 256, **same),
      *_block(deep, 256, 256, **same, pool=(window, half)),
      *_block(deep, 512, 256, (1, 6, 6)),
    )
    self.netfcaud, self.netfclip = _head(), _head()

  def voice(self, x):
    """(n, 1, 13, 20) -> (n, 1024)."""
    return self.netfcaud(self.netcnnaud(x).flatten(1))

  def face(self, x):
    """(n, 3, 5, 224, 224) -> (n, 1024)."""
    return self.netfclip(self.netcnnlip(x).flatten(1))
