"""What is said of clips that cannot be used."""

from ccl_jax.data.encode import left_out
from ccl_jax.storage.text_files import parse_object, read_lines

REASONS = {
  "c.mp4": "has no audio stream",
  "b.mp4": "video is too short: 0.10 s",
  "a.mp4": "video is too short: 0.20 s",
  "d\u2028.mp4": "is damaged at 0.12 s",
  "e.mp4": "is damaged at 3.50 s",
  "f.mp4": "is damaged at 4.50 s",
}


def test_reasons_are_counted_by_kind():
  assert left_out.describe_reasons(REASONS).split("\n") == [
    "      3 such as d\u2028.mp4: is damaged at 0.12 s",
    "      2 such as a.mp4: video is too short: 0.20 s",
    "      1 c.mp4: has no audio stream",
  ]


def test_many_kinds_are_cut():
  many = {f"{i}.mp4": f"{'x' * i} bad" for i in range(30)}
  lines = left_out.describe_reasons(many).split("\n")
  assert len(lines) == 11 and lines[-1] == "     20 for other reasons"


def test_all_of_them_are_in_a_file_if_there_are_any(tmp_path):
  left_out.write_left_out(tmp_path, {})
  assert not list(tmp_path.iterdir())
  left_out.write_left_out(tmp_path, REASONS)
  lines = read_lines(tmp_path / left_out.FILE)
  rows = [parse_object(line) for line in lines if line]
  assert {row["file"]: row["reason"] for row in rows} == REASONS
