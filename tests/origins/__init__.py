"""Origins for tests: real servers on loopback that misbehave on request."""
