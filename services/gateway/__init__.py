"""The conductor: owns sessions, passes blocks from a stage to a decoder to the clients. Imports no torch."""
