"""A server of a fake bucket, which TensorStore's gs:// paths lead to.

Those of `etils.epath` lead to `tests.bucket`.
"""

import http.server
import threading
import urllib.parse


def serve(bucket, monkeypatch):
  """Serves the objects of an `epath.Path` of `tests.bucket` to TensorStore.

  Returns:
    The server, to be shut down.
  """

  class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
      path = urllib.parse.urlparse(self.path).path
      name = urllib.parse.unquote(path.partition("/o/")[2])
      found = bucket / name
      if not name or not found.exists():
        self.answer(404, b"")
        return
      data, asked = found.read_bytes(), self.headers.get("Range")
      if asked is None:
        self.answer(200, data)
        return
      first, last = asked.removeprefix("bytes=").split("-")
      first, last = int(first), min(int(last or len(data)), len(data) - 1)
      span = f"bytes {first}-{last}/{len(data)}"
      self.answer(206, data[first : last + 1], {"Content-Range": span})

    def answer(self, code, data, headers=()):
      self.send_response(code)
      known = {"Content-Length": len(data), "x-goog-generation": 1}
      for key, value in (known | dict(headers)).items():
        self.send_header(key, str(value))
      self.end_headers()
      self.wfile.write(data)

    def log_message(self, *_):
      pass

  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  place = f"http://127.0.0.1:{server.server_port}"
  monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", place)
  monkeypatch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "none")
  monkeypatch.setenv("no_proxy", "127.0.0.1")
  return server
