"""systemd's service notifications."""
