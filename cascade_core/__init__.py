"""The engine: prompts to clean latent blocks, sequentially or as a block cascade over several ranks.

Begin with `engine.Engine`, `request.SessionRequest` and the events in `session`.
"""
