"""Stages and decoders, and the streams to them."""
