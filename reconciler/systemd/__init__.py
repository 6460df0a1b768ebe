"""systemd's service notifications: the sd_notify socket (`notify.py`), and what is sent when (`lifecycle.py`)."""
