"""For the test only: on a POST, kills the loader with SIGKILL; this container shares the process namespace of the loader's."""

import http.server

import psutil


class Killer(http.server.BaseHTTPRequestHandler):
    """Kills on each POST. The loader's container ends, and this process with it, before it can answer."""

    def do_POST(self) -> None:
        """Kill every child of the container's init process."""
        for process in psutil.Process(1).children():
            process.kill()


if __name__ == "__main__":
    http.server.HTTPServer(("0.0.0.0", 9465), Killer).serve_forever()  # noqa: S104  compose publishes no port of this service
