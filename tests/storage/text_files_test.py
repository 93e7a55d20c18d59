"""Text and JSON of users and of runs."""

import pytest

from ccl_jax.storage import text_files


@pytest.mark.parametrize(
  ("data", "text"),
  [(b"", ""), (b"\xef\xbb\xbfa", "a"), (b"a\r\nb", "a\r\nb")],
)
def test_text_is_utf_8(tmp_path, data, text):
  (tmp_path / "a.txt").write_bytes(data)
  assert text_files.read_text(tmp_path / "a.txt") == text


@pytest.mark.parametrize(
  ("data", "reason"),
  [
    (b"a\nb\xe9c", "line 2 has the byte 0xe9, as in Latin-1"),
    ("a".encode("utf-16"), "it is UTF-16"),
    ("\ufeffa".encode("utf-16-be"), "it is UTF-16"),
    ("ab".encode("utf-16-le"), "it has bytes of zero"),
    ("a".encode("utf-32"), "it is UTF-16"),
  ],
)
def test_another_encoding_is_an_error_with_the_name(tmp_path, data, reason):
  (tmp_path / "a.txt").write_bytes(data)
  with pytest.raises(ValueError, match=rf"a\.txt' is not UTF-8: {reason}"):
    text_files.read_text(tmp_path / "a.txt")


def test_line_separators_of_unicode_do_not_end_a_line(tmp_path):
  (tmp_path / "a").write_bytes("a\u2028b\x0c\x85\nc\r\nd\re\n".encode())
  lines = ["a\u2028b\x0c\x85", "c", "d", "e", ""]
  assert text_files.read_lines(tmp_path / "a") == lines


@pytest.mark.parametrize(
  ("text", "reason"),
  [
    ("", "not JSON"),
    ('{"a": [1, ', "not JSON"),
    ("[1]", "expected an object"),
    ('{"a": 1, "a": 2}', "duplicate key 'a'"),
  ],
)
def test_json_that_is_damaged_is_named(tmp_path, text, reason):
  (tmp_path / "a.json").write_text(text)
  with pytest.raises(ValueError, match=rf"a\.json' cannot be read: {reason}"):
    text_files.read_json(tmp_path / "a.json")
  text_files.write_json(tmp_path / "a.json", {"a": (1, 2)})
  assert text_files.read_json(tmp_path / "a.json") == {"a": [1, 2]}
