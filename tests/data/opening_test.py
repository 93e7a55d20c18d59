"""What is opened: one whole file, of a known kind and of a bearable size."""

import ast
import ctypes
import os
import pathlib
import socket
import struct
import subprocess
import sys
import zlib
from fractions import Fraction

import av
import numpy as np
import pytest

import ccl_jax
from ccl_jax.data import media
from tests.data import flash

IN_OPEN = 0x20
DASH = """<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"
 mediaPresentationDuration="PT2S"><Period><AdaptationSet mimeType="audio/wav">
<Representation id="0" bandwidth="1"><BaseURL>{0}</BaseURL><SegmentList
 duration="2"><SegmentURL media="{0}"/></SegmentList></Representation>
</AdaptationSet></Period></MPD>"""
HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:2.0,\n{0}\n#EXT-X-ENDLIST\n"
CONCAT = "ffconcat version 1.0\nfile '{0}'\n"
SDP = (
  "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=audio {1} RTP/AVP 0\n"
)
# Text of a file that is a list of others, and the suffixes that it pretends.
LISTS = {
  "concat": (CONCAT, (".mp4", ".ffconcat", ".wav")),
  "hls": (HLS, (".mp4", ".m3u8", ".ts", ".mp3")),
  "hls of an address": (HLS.replace("{0}", "{2}"), (".m3u8", ".mp4")),
  "dash": (DASH, (".mp4", ".mpd")),
  "dash of an address": (DASH.replace("{0}", "{2}"), (".mpd",)),
  "sdp": (SDP, (".sdp", ".mp4")),
}
NAMES = (
  "concat:{0}|{0}", "concatf:{0}", "subfile,,start,0,end,0,,:{0}", "file:{0}",
  "cache:{0}", "async:{0}", "crypto:{0}", "data:audio/wav;base64,UklGRg==",
  "pipe:0", "fd:0", "http:127.0.0.1:{1}/x", "http://127.0.0.1:{1}/x.ts",
  "https://127.0.0.1:{1}/x", "tcp:127.0.0.1:{1}", "tcp://127.0.0.1:{1}",
  "udp:127.0.0.1:{1}", "rtsp://127.0.0.1:{1}/x", "ftp://127.0.0.1:{1}/x",
  "hls+http://127.0.0.1:{1}/x", "a\0b", "\ud800", "x" * 300,
)  # fmt: skip


class Watch:
  """A private file and a server, and whether anybody has asked for them."""

  def __init__(self, folder):
    self.path = folder / "private.wav"
    media.write_wav(self.path, flash.beeps(2, [0.5], 16_000))
    self._libc = ctypes.CDLL(None, use_errno=True)
    self._events = self._libc.inotify_init1(os.O_NONBLOCK)
    path = os.fsencode(self.path)
    assert self._libc.inotify_add_watch(self._events, path, IN_OPEN) >= 0
    self.server = socket.create_server(("127.0.0.1", 0))
    self.server.setblocking(False)

  @property
  def was_asked(self):
    try:
      return bool(os.read(self._events, 4096))
    except BlockingIOError:
      pass
    try:
      self.server.accept()[0].close()
    except BlockingIOError:
      return False
    return True

  def fill(self, text):
    port = self.server.getsockname()[1]
    address = f"http://127.0.0.1:{port}/x.ts"
    return text.format(self.path, port, address)

  def close(self):
    os.close(self._events)
    self.server.close()


@pytest.fixture
def watch(tmp_path):
  watch = Watch(tmp_path)
  yield watch
  watch.close()


def refuse(path):
  """Checks that each way of reading names the path in one line."""
  for read in (media.read_clip, media.read_image, media.declared_duration):
    with pytest.raises(media.ClipError) as caught:
      read(path)
    assert str(caught.value).startswith(str(path))


def test_the_watch_sees_who_opens(watch):
  media.read_clip(watch.path, streams=("audio",))
  assert watch.was_asked and not watch.was_asked
  socket.create_connection(watch.server.getsockname()).close()
  assert watch.was_asked


@pytest.mark.parametrize("kind", LISTS)
def test_lists_of_other_files_are_refused_and_not_followed(
  tmp_path, watch, kind
):
  text, suffixes = LISTS[kind]
  for suffix in suffixes:
    path = tmp_path / f"clip{suffix}"
    path.write_text(watch.fill(text))
    refuse(path)
    with pytest.raises(media.ClipError, match=r"list of other files|Invalid"):
      media.read_clip(path)
    assert not watch.was_asked


def test_names_that_are_addresses_are_no_files(monkeypatch, tmp_path, watch):
  monkeypatch.chdir(tmp_path)
  for name in NAMES:
    refuse(watch.fill(name))
    assert not watch.was_asked, name


@pytest.mark.parametrize("scheme", ["hf", "s3", "az", "http", "GS"])
def test_of_addresses_only_those_of_buckets_are_opened(monkeypatch, scheme):
  monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail())
  with pytest.raises(media.ClipError, match="is an address; files and buckets"):
    media.read_clip(f"{scheme}://x/y")


def test_patterns_of_images_and_what_is_no_file_are_refused(tmp_path):
  image = av.VideoFrame.from_ndarray(flash.picture(), format="rgb24")
  image.save(str(tmp_path / "1.png"))
  os.mkfifo(tmp_path / "fifo.mp4")
  for name in ("%d.png", "*.png", "fifo.mp4", ""):
    refuse(tmp_path / name)
  refuse("/dev/zero")


def test_one_place_opens_what_users_bring():
  """Others call `av.open` only to write."""
  package = pathlib.Path(ccl_jax.__file__).parent
  readers = set()
  for path in package.rglob("*.py"):
    for node in ast.walk(ast.parse(path.read_text())):
      if not isinstance(node, ast.Call):
        continue
      called = ast.unparse(node.func)
      modes = [ast.unparse(x) for x in node.args[1:2]]
      if (called == "av.open" and modes != ["'w'"]) or called == "Image.open":
        readers.add(path.relative_to(package).as_posix())
  assert readers == {"data/opening.py"}


def png(width, height, rows=None):
  """A black image in few bytes; with fewer rows than it claims, if given."""

  def chunk(kind, data):
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum

  header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
  packer = zlib.compressobj(9)
  row = bytes(1 + 3 * width)
  pixels = b"".join(packer.compress(row) for _ in range(rows or height))
  pixels += packer.flush()
  return (
    b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels)
    + chunk(b"IEND", b"")
  )  # fmt: skip


def write_video(path, width, height):
  """One black picture."""
  with av.open(str(path), "w") as container:
    stream = container.add_mux_stream(
      "png", rate=25, width=width, height=height
    )
    packet = av.Packet(png(width, height, rows=100))
    packet.stream, packet.pts, packet.dts = stream, 0, 0
    packet.duration, packet.time_base = 1, Fraction(1, 25)
    packet.is_keyframe = True
    container.mux(packet)


MEASURED = """
import resource, sys
from ccl_jax.data import media
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
  for read in (media.read_image, media.declared_duration, media.read_clip):
    try:
      read(path, size=(16, 16)) if "read" in read.__name__ else read(path)
    except media.ClipError as error:
      print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3)
"""


def test_bombs_are_named_and_cost_no_memory(tmp_path):
  """Pictures of 1 GB and more are refused before they are decoded."""
  (tmp_path / "a.png").write_bytes(png(20_000, 20_000, 100))
  (tmp_path / "b.png").write_bytes(png(9_000, 9_000, 100))
  write_video(tmp_path / "c.mp4", 20_000, 20_000)
  write_video(tmp_path / "d.avi", 9_000, 9_000)
  paths = [str(path) for path in sorted(tmp_path.iterdir())]
  *lines, megabytes = subprocess.run(
    [sys.executable, "-c", MEASURED, *paths],
    capture_output=True, text=True, check=True,
  ).stdout.splitlines()  # fmt: skip
  assert float(megabytes) < 200
  for path in paths:
    assert any(
      line.startswith(f"{path}: has pictures of") and "megapixels" in line
      for line in lines
    ), (path, lines)


def test_pictures_that_grow_to_cover_a_size_are_refused(tmp_path):
  (tmp_path / "thin.png").write_bytes(png(1, 4000))
  assert media.read_image(tmp_path / "thin.png").shape == (4000, 1, 3)
  with pytest.raises(media.ClipError, match=r"512x2048000 pixels"):
    media.read_image(tmp_path / "thin.png", (512, 512))


def garbled(packets):
  """Returns packets of the same times and sizes with other bytes."""
  rng, result = np.random.default_rng(0), []
  for packet in packets:
    other = av.Packet(rng.bytes(packet.size))
    other.pts, other.dts = packet.pts, packet.dts
    other.time_base, other.duration = packet.time_base, packet.duration
    other.is_keyframe, other.stream = packet.is_keyframe, packet.stream
    result.append(other)
  return result


@pytest.mark.parametrize("damaged", ["video", "audio", "both"])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_stream_whose_decoder_refuses_it_is_passed_over(
  tmp_path, damaged, suffix
):
  image, tone = flash.picture(is_lit=True), flash.beeps(1.0, [0.5], 16_000)
  with av.open(str(tmp_path / f"a.{suffix}"), "w") as container:
    films = [container.add_stream("libx264", rate=25) for _ in range(2)]
    sounds = [
      container.add_stream("aac", rate=16_000, layout="mono") for _ in range(2)
    ]
    packets = []
    for i, film in enumerate(films):
      film.height, film.width, film.pix_fmt = 96, 128, "yuv420p"
      frame = av.VideoFrame.from_ndarray(image, format="rgb24")
      made = []
      for step in range(25):
        frame.pts = step
        made += film.encode(frame)
      made += film.encode(None)
      is_whole = damaged == "audio" or i
      packets += made if is_whole else garbled(made)
    for i, sound in enumerate(sounds):
      frame = av.AudioFrame.from_ndarray(tone[None], "fltp", "mono")
      frame.sample_rate, frame.pts = 16_000, 0
      made = [*sound.encode(frame), *sound.encode(None)]
      is_whole = damaged == "video" or i
      packets += made if is_whole else garbled(made)
    for packet in sorted(packets, key=lambda p: p.dts * p.time_base):
      container.mux(packet)
  clip = media.read_clip(tmp_path / f"a.{suffix}")
  assert clip.video.shape == (25, 96, 128, 3)
  np.testing.assert_allclose(
    flash.corners(clip.video[0]), flash.QUADRANTS, atol=4
  )
  np.testing.assert_allclose(flash.beep_times(clip.audio), [0.5], atol=0.002)


@pytest.mark.parametrize("num_streams", [1, 2])
def test_sound_that_nobody_decodes_is_passed_over_or_named(
  tmp_path, num_streams
):
  path = tmp_path / "a.mp4"
  with av.open(str(path), "w") as container:
    for _ in range(num_streams):
      container.add_stream("aac", rate=48_000, layout="mono")
    for i, stream in enumerate(container.streams):
      wave = flash.beeps(1.0, [0.2 + 0.4 * i])
      frame = av.AudioFrame.from_ndarray(wave[None], "fltp", "mono")
      frame.sample_rate, frame.pts = 48_000, 0
      container.mux([*stream.encode(frame), *stream.encode(None)])
  # What the header of the first stream says of its codec.
  data = path.read_bytes()
  at = data.index(b"mp4a", data.index(b"moov"))
  data = data[:at] + b"no!!" + data[at + 4 :].replace(b"esds", b"none", 1)
  path.write_bytes(data)
  if num_streams == 1:
    with pytest.raises(media.ClipError, match="audio in a format that is not"):
      media.read_clip(path, streams=("audio",))
    return
  audio = media.read_clip(path, streams=("audio",)).audio
  np.testing.assert_allclose(flash.beep_times(audio), [0.6], atol=0.01)


@pytest.mark.parametrize("name", ["a.mp4", "a.wav", "a.png"])
def test_a_file_of_nothing_is_called_empty(tmp_path, name):
  path = tmp_path / name
  path.touch()
  read = media.read_image if name == "a.png" else media.read_clip
  with pytest.raises(media.ClipError, match="is empty"):
    read(path)


@pytest.mark.parametrize(
  "data", [b"<!DOCTYPE html>", b"version https://git-lfs", bytes(5000)]
)
def test_what_is_no_clip_is_called_so(tmp_path, data):
  (tmp_path / "a.mp4").write_bytes(data)
  with pytest.raises(media.ClipError, match="no clip, or damaged"):
    media.read_clip(tmp_path / "a.mp4")
