#!/usr/bin/env bash
# Of two calls that upload an open file, one closes it.
#
# Guess: who opened a file closes it; both calls leave it open, so that it can be read again.
# Seen (boto3 1.44.5): put_object leaves it open, upload_fileobj closes it, also where it is one small request.
source "$(dirname "$0")/_common"
environment env boto3==1.44.5 'moto[s3]==5.2.5'
expect "$("$work/env/bin/python" <<'PYTHON'
import io
import boto3, moto

with moto.mock_aws():
    s3 = boto3.client("s3", region_name="us-east-1", aws_access_key_id="key", aws_secret_access_key="secret")
    s3.create_bucket(Bucket="bucket")
    for name, upload in (
        ("put_object", lambda file: s3.put_object(Bucket="bucket", Key="key", Body=file)),
        ("upload_fileobj", lambda file: s3.upload_fileobj(file, "bucket", "key")),
    ):
        file = io.BytesIO(b"data")
        upload(file)
        print(name, "closed" if file.closed else "open")
PYTHON
)" "put_object open
upload_fileobj closed"
