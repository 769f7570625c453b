"""A real Prometheus beside real instances under load, asked for each of our expressions."""
