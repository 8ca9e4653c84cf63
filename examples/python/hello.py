"""One prompt, one file: python hello.py "a red circle moves left" """

import os
import sys

from cascade_client import SyncClient

GATEWAY = os.environ.get("CASCADE_CLIENT_GATEWAY", "localhost:50051")
prompt = sys.argv[1] if sys.argv[1:] else "a red circle moves left"

with SyncClient(GATEWAY, api_key=os.environ.get("CASCADE_API_KEY")) as client:
    session = client.create(prompt, num_blocks=8)
    print(session)
    with client.connect(session) as stream:
        saved = stream.save("hello.mp4")

print(f"{saved.path}: {saved.num_frames} pictures, {saved.duration_s:.1f} s")
