"""What a supervisor is told about the daemon's life: the sd_notify socket, and what is sent through it."""
