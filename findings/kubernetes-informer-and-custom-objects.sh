#!/usr/bin/env bash
# The official Kubernetes client's informer can't list custom resources, which it says only in its log.
#
# Guess: SharedInformer takes any list function of the client, CustomObjectsApi's too: both list objects with metadata.
# Seen (kubernetes 37.0.1): lists of custom objects are dicts, whose `.items` is a method; the informer iterates over it. Each list ends in a
# TypeError, the cache stays empty, and start() has returned without a word.
source "$(dirname "$0")/_common"
environment env kubernetes==37.0.1
expect "$("$work/env/bin/python" 2>/dev/null <<'PYTHON'
import json, threading, time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from kubernetes import client
from kubernetes.informer import SharedInformer

class Api(BaseHTTPRequestHandler):
    """What an API server answers to a list of one Widget."""
    def log_message(self, *_): pass
    def do_GET(self):
        widget = {"apiVersion": "example.dev/v1", "kind": "Widget", "metadata": {"name": "one", "namespace": "default"}}
        body = json.dumps({"apiVersion": "example.dev/v1", "kind": "WidgetList", "metadata": {"resourceVersion": "1"}, "items": [widget]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
threading.Thread(target=server.serve_forever, daemon=True).start()
api = client.CustomObjectsApi(client.ApiClient(client.Configuration(host=f"http://127.0.0.1:{server.server_address[1]}")))
listing = partial(api.list_namespaced_custom_object, group="example.dev", version="v1", plural="widgets")
print("listed by hand:", [one["metadata"]["name"] for one in listing(namespace="default")["items"]])
informer, errors = SharedInformer(listing, namespace="default"), []
informer.add_event_handler("ERROR", errors.append)
informer.start()
time.sleep(2)
print("in the informer's cache:", informer.cache.list(), "error:", type(errors[0]).__name__, errors[0])
PYTHON
)" "listed by hand: ['one']
in the informer's cache: [] error: TypeError 'builtin_function_or_method' object is not iterable"
