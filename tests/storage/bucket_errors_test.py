"""What is said of the errors that gcsfs and TensorStore raise."""

import errno

import pytest

from ccl_jax.storage import bucket_errors


def error_of(library, name, text, **attributes):
  """Returns an error of a type of a library that need not be there."""
  kind = type(name, (Exception,), {"__module__": library, **attributes})
  return kind(text)


DENIED = "Anonymous caller does not have storage.objects.get access"
RETRIES = "ABORTED: All 32 retry attempts failed: CURL error [curl_code='7']"
PASSING = [
  error_of("aiohttp.client_exceptions", "ClientConnectorError", "No host x"),
  error_of("fsspec.exceptions", "FSTimeoutError", ""),
  error_of("gcsfs.retry", "HttpError", "Try later., 503", code=503),
  TimeoutError(),
  ValueError(
    f"Error opening \"zarr\" driver: {RETRIES} [tensorstore_spec='x']"
  ),
]
LASTING = [
  error_of("gcsfs.retry", "HttpError", DENIED, code=401),
  error_of("gcsfs.retry", "HttpError", DENIED, code="403"),
  OSError(f"Forbidden: b/bucket/o\n{DENIED}"),
  error_of("google.auth.exceptions", "DefaultCredentialsError", "None found."),
  FileNotFoundError("b/bucket/o/a%2Fnull_text.npy"),
  ImportError("Please install gcsfs to access Google Storage"),
]
OTHERS = [
  ValueError("batch_size is 0."), OSError(errno.ENOENT, "No such file", "a"),
  OSError("cannot identify image file"), ImportError("no module named x"),
  ConnectionResetError(errno.ECONNRESET, "reset"), KeyError("gs"),
]  # fmt: skip


@pytest.mark.parametrize("error", PASSING, ids=lambda e: type(e).__name__)
def test_what_is_transient_is_said_so(error):
  text = bucket_errors.describe(error)
  assert text.startswith("A bucket could not be reached: ")
  assert bucket_errors.is_transient(error) and "spec=" not in text


@pytest.mark.parametrize("error", LASTING, ids=lambda e: type(e).__name__)
def test_what_another_start_meets_again(error):
  text = bucket_errors.describe(error)
  assert not bucket_errors.is_transient(error) and "\n" not in text
  assert "reached" not in text


def test_objects_are_named_as_people_write_them():
  texts = [bucket_errors.describe(error) for error in LASTING]
  assert any("Forbidden: gs://bucket/ Anonymous" in text for text in texts)
  assert "'gs://bucket/a/null_text.npy': no such file or object." in texts
  assert texts[-1] == "gs:// paths need: pip install gcsfs"


@pytest.mark.parametrize("error", OTHERS, ids=lambda e: type(e).__name__)
def test_other_errors_are_left(error):
  assert bucket_errors.describe(error) is None
