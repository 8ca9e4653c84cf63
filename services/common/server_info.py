"""Which process this is."""

from uuid import uuid4

from google.protobuf.timestamp_pb2 import Timestamp

from cascade import __version__
from cascade.v1 import common_pb2


def server_info() -> common_pb2.ServerInfo:
    """Of a process that starts now."""
    started = Timestamp()
    started.GetCurrentTime()
    return common_pb2.ServerInfo(instance_id=uuid4().hex, version=__version__, start_time=started)
