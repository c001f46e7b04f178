"""What only the one machine has that holds the data directory."""
