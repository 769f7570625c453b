"""What people run beside an instance, and the programs that make and check it."""
