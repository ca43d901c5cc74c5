#!/usr/bin/env bash
# The official Kubernetes client loses a custom object that a server-side apply created: it gives None.
#
# Guess: patch_namespaced_custom_object returns the object, created or changed: the API server sends it in both cases, and the method's
# own create_ returns it.
# Seen (kubernetes 37.0.1): the method knows the answer 200 alone. An apply that creates is answered 201, and the caller gets None, without
# an error; the same apply again gives the object. `_preload_content=False` gives the bytes in both cases.
source "$(dirname "$0")/_common"
environment env kubernetes==37.0.1
expect "$("$work/env/bin/python" 2>/dev/null <<'PYTHON'
import json, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from kubernetes import client

class Api(BaseHTTPRequestHandler):
    """What an API server answers to an apply: 201 when the Widget is new, then 200; the object in both cases."""
    known = set()
    def log_message(self, *_): pass
    def do_PATCH(self):
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200 if self.path in self.known else 201)
        self.known.add(self.path)
        body = json.dumps({**sent, "metadata": {**sent["metadata"], "uid": "1"}}).encode()
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
threading.Thread(target=server.serve_forever, daemon=True).start()
api = client.CustomObjectsApi(client.ApiClient(client.Configuration(host=f"http://127.0.0.1:{server.server_address[1]}")))
widget = {"apiVersion": "example.dev/v1", "kind": "Widget", "metadata": {"name": "one"}}
for what in ("created", "changed"):
    answer = api.patch_namespaced_custom_object(
        "example.dev", "v1", "default", "widgets", "one", widget, field_manager="me", _content_type="application/apply-patch+yaml"
    )
    print(what, answer and answer["metadata"]["uid"])
PYTHON
)" "created None
changed 1"
