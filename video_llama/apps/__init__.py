"""What people and programs talk to: the web page and the HTTP server."""
