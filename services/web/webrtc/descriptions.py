"""Session descriptions (SDP): what we read in an offer, and change in an answer."""

import re

VIDEO = re.compile(r"^m=video ", re.MULTILINE)
H264 = re.compile(r"^a=rtpmap:\d+ H264/90000", re.MULTILINE | re.IGNORECASE)
HOST_CANDIDATE = re.compile(r"^(a=candidate:\S+ \d+ \S+ \d+ )(\S+)( \d+ typ host)", re.MULTILINE)
PLACE = re.compile(r"^(c=IN IP4 )(\S+)", re.MULTILINE)


def what_lacks(offer: str) -> str:
    """Why an offer cannot be answered; empty: it can."""
    if not VIDEO.search(offer):
        return "the offer asks for no video"
    if not H264.search(offer):
        return "the offer has no H.264, the form that the video has"
    return ""


def with_public_address(answer: str, address: str) -> str:
    """Host candidates of IPv4 at the address by which the world reaches them, under the same port."""

    def change(found: re.Match[str]) -> str:
        return f"{found[1]}{found[2] if ':' in found[2] else address}{found[3]}"

    return PLACE.sub(rf"\g<1>{address}", HOST_CANDIDATE.sub(change, answer))
