"""WebRTC to players that have it: H.264 as the decoder encoded it. Begin with `peer.py`; WHEP, which leads
here, is in `services/web/whep.py`. Needs the extra `webrtc`."""
