"""Stages and decoders (`pool.py`); a session's streams to them: `stage_stream.py`, `decoder_stream.py`."""
