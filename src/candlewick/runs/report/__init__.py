"""What is said about runs that are there."""
