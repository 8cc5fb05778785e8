"""For the test alone: kills the loader whose container it shares the processes of, with SIGKILL, when asked by POST."""

import http.server

import psutil


class Killer(http.server.BaseHTTPRequestHandler):
    """Kills at each POST; the loader's container ends with it, and so does this process, before it can answer."""

    def do_POST(self) -> None:
        """Kill what the container's init has started."""
        for process in psutil.Process(1).children():
            process.kill()


if __name__ == "__main__":
    http.server.HTTPServer(("0.0.0.0", 9465), Killer).serve_forever()  # noqa: S104  on the compose network, which publishes no port of it
