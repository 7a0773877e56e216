"""What a person runs: each task as plain functions, and the commands of the command line."""
