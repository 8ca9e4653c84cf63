"""A session's video on to a media server or a streaming service, as it is encoded: begin with `sender.py`.

    from cascade_client.push import Target, push

What sends runs in a process of its own (`relay.py`): FFmpeg's writers know no deadline, so one that hangs is
killed. Needs the extra `push`.
"""

from cascade_client.push.sender import Pushed, push
from cascade_client.push.target import Target

__all__ = ["Pushed", "Target", "push"]
