"""The gateway service: sessions, prompt switches, recovery. No torch.

Eight rooms, each of which imports only from those named after it: app, then api and kubernetes, session,
placement, peers, journal, base. Begin with `app/assembly.py`, which puts them together, or with
`session/conductor.py`.
"""
