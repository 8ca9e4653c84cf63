"""Parts of messages that go through unread: their bytes are put into place as protobuf would."""


def field(number: int, message: bytes) -> bytes:
    """A field that holds this serialized message; fields put together are a message."""
    return b"".join((_varint(number << 3 | 2), _varint(len(message)), message))


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
