"""The Grafana dashboard, and what it is made of."""
