"""The user interfaces: the web page and the HTTP server."""
