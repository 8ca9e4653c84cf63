"""Pictures as tensors while they are made: python frames.py

    pip install "cascade-client[frames]" torch

For OpenCV: cv2.imshow("video", frame.image[:, :, ::-1]), since it wants blue first.
"""

import asyncio
import os

import torch

from cascade_client import Client

GATEWAY = os.environ.get("CASCADE_CLIENT_GATEWAY", "localhost:50051")


async def main() -> None:
    before = None
    async with Client(GATEWAY, api_key=os.environ.get("CASCADE_API_KEY")) as client:
        session = await client.create({0: "a red circle moves left", 3: "a blue square"}, num_blocks=6)
        async with client.connect(session) as stream:
            async for frame in stream.frames():
                picture = torch.from_numpy(frame.image).permute(2, 0, 1).float() / 255  # [3, H, W]
                moved = (picture - before).abs().mean() if before is not None else 0.0
                red, green, blue = picture.mean(dim=(1, 2))
                print(f"{frame.time_s:6.3f} s  colour {red:.2f} {green:.2f} {blue:.2f}  moved {moved:.3f}")
                before = picture


asyncio.run(main())
