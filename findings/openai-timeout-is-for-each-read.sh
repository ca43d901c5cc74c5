#!/usr/bin/env bash
# A request with timeout=1.0 takes four seconds and succeeds.
#
# Guess: the openai client's timeout bounds a request, as its documentation's examples in seconds let one think; a judge that dribbles its
# reply ends in APITimeoutError after a second.
# Seen (openai 3.57.0): it bounds the connection and each read. An endpoint that sends a byte now and then is waited for as long as it sends.
# Whoever needs a bound for the whole must keep the time beside it.
source "$(dirname "$0")/_common"
environment env openai==3.57.0
expect "$("$work/env/bin/python" 2>/dev/null <<'PYTHON'
import http.server, json, threading, time
import openai

choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "8 6"}}
BODY = json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": "judge", "choices": [choice]}).encode()

class Dribbling(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(BODY)))
        self.end_headers()
        for part in (BODY[:-20], *(BODY[at : at + 1] for at in range(len(BODY) - 20, len(BODY)))):
            self.wfile.write(part)
            self.wfile.flush()
            time.sleep(0.2)

    def log_message(self, *arguments):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Dribbling)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="none", timeout=1.0, max_retries=0)
began = time.monotonic()
answer = client.chat.completions.create(model="judge", messages=[{"role": "user", "content": "Which is better?"}])
print(f"answered {answer.choices[0].message.content}, after three seconds or more: {time.monotonic() - began >= 3}")
server.shutdown()
PYTHON
)" "answered 8 6, after three seconds or more: True"
