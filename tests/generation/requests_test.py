"""Lists of prompts, and what lines and files can have wrong with them."""

import json
from fractions import Fraction

import av
import numpy as np
import pytest

from ccl_jax.data import media
from ccl_jax.generation import requests
from tests.runs import RATE, SAMPLES, SHAPE, hum, noise

DEFAULTS = {
  "task": "t2av", "negative": "", "seed": 7, "image": None, "audio": None,
  "video": None,
}  # fmt: skip


def read(tmp_path, *lines):
  path = tmp_path / "list.jsonl"
  path.write_text("\n".join(lines))
  return requests.read_list(path, DEFAULTS)


def test_lines_take_what_they_lack_from_the_flags(tmp_path):
  items, problems = read(
    tmp_path,
    '{"prompt": "One."}',
    "",
    json.dumps(
      {"prompt": "", "task": "a2v", "audio": "a.wav", "seed": 1, "name": "b/c"}
    ),
    '{"prompt": "Three.", "negative": "Four."}',
  )
  assert not problems
  assert [item.name for item in items] == ["t2av_0000", "b/c", "t2av_0002"]
  assert [item.seed for item in items] == [7, 1, 9]
  assert [item.negative for item in items] == ["", "", "Four."]
  assert (items[1].task.name, items[1].audio) == ("a2v", "a.wav")


@pytest.mark.parametrize(
  ("line", "reason"),
  [
    ("nonsense", "not JSON"),
    ("[]", "expected an object"),
    ('{"negative": "x"}', 'expected a "prompt"'),
    ('{"prompt": "x", "task": null}', 'expected a "task"'),
    ('{"prompt": "x", "name": null}', 'expected a "name"'),
    ('{"prompt": "x", "sede": 3}', "Did you mean 'seed'"),
    ('{"prompt": "x", "steps": 3}', "Unknown key 'steps' of a prompt. Known"),
    ('{"prompt": "x", "prompt": "y"}', "duplicate key 'prompt'"),
    ('{"prompt": ' + "[" * 100_000, "nested too deeply"),
    ('{"prompt": "x", "seed": ' + "9" * 5000 + "}", "4300 digits"),
    ('{"prompt": "\\udc00"}', '"prompt" has half a character'),
    ('{"prompt": "x", "name": "a\\u0000b"}', "no NUL"),
    ('{"prompt": "x", "task": "a2v", "audio": "a\\u0000"}', "no NUL"),
    (json.dumps({"prompt": "x", "name": "x" * 300}), "at most 190 bytes"),
    (json.dumps({"prompt": "x", "name": "\u4e16" * 70 + "/a"}), "190 bytes"),
    (json.dumps({"prompt": "x", "name": "a/" * 2000 + "b"}), "2001 parts"),
    (json.dumps({"prompt": "x", "name": f"{'x' * 150}/" * 7}), "1056 bytes"),
    ('{"prompt": 5}', '"prompt" is 5, expected text'),
    ('{"prompt": "x", "seed": "one"}', "expected a whole number"),
    ('{"prompt": "x", "seed": true}', "expected a whole number"),
    ('{"prompt": "x", "seed": -1}', "seed -1"),
    ('{"prompt": "x", "seed": 4294967296}', "2^32"),
    ('{"prompt": "x", "task": "t2x"}', "t2av"),
    ('{"prompt": "x", "task": "v2a"}', "needs video"),
    ('{"prompt": "x", "image": "a.png"}', "takes no image"),
    ('{"prompt": "x", "name": "../x"}', "below the folder"),
    ('{"prompt": "x", "name": "/x"}', "below the folder"),
    ('{"prompt": "x", "name": ""}', "below the folder"),
    ('{"prompt": "x", "name": "t2av_0000"}', "taken, by"),
    ('{"prompt": "x", "name": "./t2av_0000"}', "taken, by"),
  ],
)
def test_a_bad_line_is_told_and_the_others_are_read(tmp_path, line, reason):
  items, problems = read(tmp_path, '{"prompt": "x"}', line, '{"prompt": "y"}')
  assert [item.prompt for item in items] == ["x", "y"]
  (problem,) = problems
  assert problem.startswith(f"{tmp_path / 'list.jsonl'} line 2: ")
  assert reason in problem


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_only_line_feeds_and_returns_end_a_line(tmp_path, end, encoding):
  prompts = ["A\u2028b", "A\u0085\u2029\x1c b", "\u000b", "Last."]
  escaped = [
    json.dumps({"prompt": x}, ensure_ascii="\x0b" in x or "\x1c" in x)
    for x in prompts
  ]
  path = tmp_path / "list.jsonl"
  path.write_bytes(end.join(escaped).encode(encoding))
  items, problems = requests.read_list(path, DEFAULTS)
  assert not problems
  assert [item.prompt for item in items] == prompts
  assert [item.seed for item in items] == [7, 8, 9, 10]
  assert items[3].name == "t2av_0003" and items[3].where.endswith("line 4")


@pytest.mark.parametrize(
  ("raw", "byte"),
  [(b"\0", "0x0"), (b"\xe9", "0xe9"), (b"\xed\xa0\x80", "0xed")],
)
def test_a_line_that_is_not_utf_8_leaves_the_others(tmp_path, raw, byte):
  path = tmp_path / "list.jsonl"
  lines = (b'{"prompt": "%s"}' % text for text in (b"caf\xc3\xa9", raw, b"y"))
  path.write_bytes(b"\n".join(lines))
  items, (problem,) = requests.read_list(path, DEFAULTS)
  assert [item.prompt for item in items] == ["caf\u00e9", "y"]
  assert problem.startswith(f"{path} line 2: it has the byte {byte},")


@pytest.mark.parametrize(
  "fields",
  [
    {"prompt": ["x" * 5000]},
    {"prompt": "\udc00" * 5000},
    {"seed": 10**4000},
    {"seed": "9" * 5000},
    {"name": "../" * 5000},
    {"task": "t2av" * 5000},
    {"task": "a2v", "audio": "a" * 300},
    {"task": "a2v", "audio": "a/" * 5000},
    {"x" * 5000: 1},
  ],
)
def test_a_long_value_is_cut_in_the_message(tmp_path, fields):
  _, (problem,) = read(tmp_path, json.dumps({"prompt": "x"} | fields))
  assert len(problem) < 300 + len(str(tmp_path))


def test_a_list_in_another_encoding_is_one_error(tmp_path):
  path = tmp_path / "list.jsonl"
  path.write_bytes('{"prompt": "caf\u00e9"}'.encode("utf-16"))
  with pytest.raises(
    ValueError, match=r"--prompts: .*list.jsonl' is not UTF-8"
  ):
    requests.read_list(path, DEFAULTS)


@pytest.mark.parametrize("names", [("x", "x.attention"), ("x.attention", "x")])
def test_the_name_of_attention_maps_is_taken_too(tmp_path, names):
  path = tmp_path / "list.jsonl"
  lines = (json.dumps({"prompt": "y", "name": name}) for name in names)
  path.write_text("\n".join(lines))
  assert len(requests.read_list(path, DEFAULTS)[0]) == 2
  items, (problem,) = requests.read_list(path, DEFAULTS, has_maps=True)
  assert [item.name for item in items] == [names[0]]
  assert "line 2: name 'x.attention' is taken, by" in problem


def test_a_list_of_nothing_is_an_error(tmp_path):
  with pytest.raises(ValueError, match="no file"):
    requests.read_list(tmp_path / "absent.jsonl", DEFAULTS)
  with pytest.raises(ValueError, match="holds no line"):
    read(tmp_path, "", " ")


def item(task, **fields):
  return requests.make_request(
    {"prompt": "x", "task": task, "seed": 0, "name": "x"} | fields
  )


def read_inputs(request):
  return requests.read_inputs(request, SHAPE, RATE)


def test_inputs_come_as_the_model_takes_them(inputs):
  image = read_inputs(item("i2v", image=inputs["image"]))
  assert image["image"].shape == (*SHAPE.size, 3)
  sound = item("a2v", audio=inputs["audio"])
  assert len(read_inputs(sound)["audio"]) == SAMPLES
  # v2a needs pictures only: an mp4 without sound will do.
  video = item("v2a", video=inputs["video"])
  given = read_inputs(video)
  assert given["video"].shape == (SHAPE.frames, *SHAPE.size, 3)
  assert read_inputs(item("t2av")) == {}


def test_what_is_left_out_of_a_long_input_is_said(tmp_path):
  """Ten minutes of sound, of which the clip's length is read."""
  path = tmp_path / "long.wav"
  media.write_wav(path, np.tile(hum(1.0), 600))
  long = item("a2v", audio=str(path))
  assert requests.describe_unused(long, SHAPE) == (
    f"{path}: only the first 0.20 s of 600 s are used"
  )
  assert len(read_inputs(long)["audio"]) == SAMPLES


@pytest.mark.parametrize("sound", [None, "short", "broken", "not a number"])
def test_v2a_does_not_read_sound(tmp_path, sound):
  path = tmp_path / "a.mkv"
  wave = hum(0.02 if sound == "short" else 1.0)
  if sound == "not a number":
    wave[:] = np.nan
  with av.open(str(path), "w") as container:
    stream = container.add_stream("ffv1", rate=25)
    stream.height, stream.width = SHAPE.size
    stream.pix_fmt = "bgr0"
    if sound:
      audio = container.add_stream("pcm_f32le", rate=RATE, layout="mono")
      frame = av.AudioFrame.from_ndarray(wave[None], "flt", "mono")
      frame.sample_rate, frame.pts = RATE, 0
      for packet in audio.encode(frame):
        if sound == "broken":
          packet = av.Packet(b"?")
          packet.stream, packet.pts, packet.dts = audio, 0, 0
          packet.time_base = Fraction(1, RATE)
        container.mux(packet)
    for i, image in enumerate(noise()):
      frame = av.VideoFrame.from_ndarray(image, format="rgb24")
      frame.pts = i
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  given = read_inputs(item("v2a", video=str(path)))["video"]
  np.testing.assert_array_equal(given, noise())


def test_a2v_does_not_read_pictures(tmp_path):
  """One picture beside a second of sound: its clock is the sound's own."""
  path = tmp_path / "still.mp4"
  media.write_mp4(path, noise(frames=1), SHAPE.fps, hum(1.0))
  given = read_inputs(item("a2v", audio=str(path)))["audio"]
  assert len(given) == SAMPLES
  assert np.corrcoef(given, hum(1.0)[:SAMPLES])[0, 1] > 0.99


def write_bad(kind, path):
  if kind == "rubbish":
    path.write_text("neither sound nor picture")
  elif kind == "empty file":
    path.write_bytes(b"")
  elif kind == "no samples":
    media.write_wav(path, np.zeros(0, np.float32))
  elif kind == "short":
    media.write_wav(path, hum(0.05))
  elif kind == "silent":
    media.write_mp4(path, noise(), SHAPE.fps)
  elif kind == "sound":
    media.write_wav(path, hum(1.0))


@pytest.mark.parametrize(
  ("task", "field", "kind", "reason"),
  [
    ("a2v", "audio", "rubbish", "Invalid data"),
    ("a2v", "audio", "empty file", "is empty"),
    ("a2v", "audio", "no samples", "no decodable sound"),
    ("a2v", "audio", "short", "too short: 0.05 s"),
    ("a2v", "audio", "silent", "has no audio stream"),
    ("a2v", "audio", "absent", "No such file"),
    ("v2a", "video", "rubbish", "Invalid data"),
    ("v2a", "video", "sound", "has no video stream"),
    ("i2v", "image", "rubbish", "not an image"),
    ("i2v", "image", "silent", "not an image"),
  ],
)
def test_a_bad_input_is_one_error_with_its_name(
  tmp_path, task, field, kind, reason
):
  path = tmp_path / "input"
  write_bad(kind, path)
  with pytest.raises(media.ClipError, match=reason) as caught:
    read_inputs(item(task, **{field: str(path)}))
  assert str(caught.value).startswith(str(path))
  assert "\n" not in str(caught.value)
