#!/usr/bin/env bash
# A token in the Authorization header is not what the server gets, if the user has a line for the host in ~/.netrc.
#
# Guess: what a program says outright counts for more than a file of the user's that it never mentions.
# Seen (requests 2.34.2): the header is replaced by the file's user and password. With a session whose trust_env is False it is not;
# httpx 0.28.1 sends the header that it was given.
source "$(dirname "$0")/_common"
environment env requests==2.34.2 httpx==0.28.1
printf 'machine 127.0.0.1 login somebody password old\n' >"$work/netrc"
chmod 600 "$work/netrc"
expect "$(env -u http_proxy -u HTTP_PROXY -u all_proxy -u ALL_PROXY NETRC="$work/netrc" "$work/env/bin/python" <<'PYTHON'
import http.server, threading
import httpx, requests

class Told(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.headers["Authorization"].split()[0].encode())

    def log_message(self, *_):
        pass

with http.server.HTTPServer(("127.0.0.1", 0), Told) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url, headers = f"http://127.0.0.1:{server.server_port}/", {"Authorization": "Bearer token"}
    print("requests", requests.get(url, headers=headers).text)
    session = requests.Session()
    session.trust_env = False
    print("requests without trust_env", session.get(url, headers=headers).text)
    print("httpx", httpx.get(url, headers=headers).text)
    server.shutdown()
PYTHON
)" "requests Basic
requests without trust_env Bearer
httpx Bearer"
