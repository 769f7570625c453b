"""A real Prometheus beside real instances under load, and what it says to each of our expressions."""
