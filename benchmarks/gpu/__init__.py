"""One GPU measured: models, attention kernels, decoders, the worker around a tick, the whole engine."""
