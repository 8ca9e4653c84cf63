"""The gRPC server scaffold that stage, decoder and gateway share; begin with `server.serve`.

Knows no service, no torch: what a service adds comes in as a `server.Service`.
"""
