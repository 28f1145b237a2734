"""What the shell starts: one file a command."""
