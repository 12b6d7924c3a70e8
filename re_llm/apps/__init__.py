"""What people use: terminal chat, demo, doctor, server and page."""
