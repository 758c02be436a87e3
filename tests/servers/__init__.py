"""Real servers on free loopback ports, started once per test session and ended by process id."""
