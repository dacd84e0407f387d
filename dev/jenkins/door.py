"""A stand-in for a deployed shop's door: answers what `make smoke` asks. door.py PORTFILE"""

import http.server
import sys


class Door(http.server.BaseHTTPRequestHandler):
    """Products and keys, nothing else."""

    def do_GET(self):
        body = {"/api/products?pageSize=1": b'{"products":[]}', "/.well-known/jwks.json": b'{"keys":[]}'}.get(self.path)
        self.send_response(200 if body else 404)
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_):
        """Nobody reads it."""


server = http.server.HTTPServer(("127.0.0.1", 0), Door)
with open(sys.argv[1], "w", encoding="utf-8") as file:
    file.write(str(server.server_address[1]))
server.serve_forever()
