"""The engine: prompts to clean latent blocks, sequentially or as a block cascade over several ranks.

Begin with `cascade_core.engine`, which has `Engine`, `SessionRequest` and the events of a session.
"""
