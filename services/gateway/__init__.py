"""The gateway service: sessions, prompt switches, recovery. No torch."""
